import { randomBytes } from "node:crypto";
import { pathToFileURL } from "node:url";
import { HttpTransport, PresenceService, type PresenceOptions, type ChoosableStatus } from "presence-client";
import { PEOPLE, idOf } from "../src/people.js";
import { ROOMS } from "../src/rooms.js";

/**
 * The very service that pages use, without a page: so that a room can be full. One that does not watch is like a tab in the background, which has given
 * its event stream back.
 */
export function visitor(
  address: string,
  name: string,
  options: Partial<PresenceOptions> = {},
  watch = true,
): PresenceService {
  const transport = new HttpTransport({
    baseUrl: `${address.replace(/\/$/, "")}/api`,
    headers: { cookie: `chat_name=${encodeURIComponent(name)}` },
  });
  if (!watch)
    transport.follow = (_seq, _sink, signal) =>
      new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
  return new PresenceService({ userId: idOf(name), transport, ...options });
}

const pick = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)];

const REMARKS: Record<string, readonly string[]> = {
  lobby: ["Good morning!", "Has anybody seen the nightly build?", "It is green.", "Back in ten minutes.", "Welcome!"],
  design: [
    "The new colours are in the branch.",
    "Could somebody look at it on a phone?",
    "It needs more contrast in the dark.",
    "I like the second one better.",
  ],
  backend: [
    "The slow query was a missing index.",
    "Who restarted the database?\nNot me.",
    "Deployed.",
    "How many connections do we have open?",
  ],
  coffee: [
    "The machine works again ☕",
    "There is cake in the kitchen.",
    "Tea for me, please.",
    "Who is in for lunch?",
  ],
};

async function write(address: string, name: string, room: string, body: string): Promise<void> {
  const key = randomBytes(16).toString("hex");
  await fetch(new URL("/messages", address), {
    method: "POST",
    headers: { cookie: `chat_name=${encodeURIComponent(name)}`, "content-type": "application/json" },
    body: JSON.stringify({ key, room, body }),
  });
}

/** Milliseconds between two things that somebody does. */
const PAUSE = 5_000;

/** People who come, go from room to room, write now and then, are busy for a while, open a second tab, and go. */
function wander(address: string, name: string): void {
  interface Tab {
    service: PresenceService;
    room: string;
    leave: () => void;
  }
  const tabs: Tab[] = [];
  const moods: (ChoosableStatus | null)[] = [null, null, null, "busy", "away"];
  const enter = (service: PresenceService): Tab => {
    const room = pick(ROOMS).id;
    return { service, room, leave: service.room(room).enter() };
  };
  const type = ({ service, room }: Tab) => {
    const body = pick(REMARKS[room] ?? []);
    // As long as somebody needs for the words.
    const typing = setInterval(() => service.room(room).setTyping(), 1_000);
    setTimeout(
      () => {
        clearInterval(typing);
        service.room(room).setTyping(false);
        write(address, name, room, body).catch(() => {}); // the site is away; there will be other things to say
      },
      1_500 + body.length * 100,
    );
  };
  const act = () => {
    const [tab] = tabs;
    const dice = Math.random();
    if (tab === undefined || (tabs.length < 3 && dice < 0.1)) {
      const service = visitor(address, name);
      service.start();
      tabs.push(enter(service));
    } else if (dice < 0.2) {
      tabs.pop()?.service.stop();
    } else if (dice < 0.35) {
      tab.leave();
      tabs[0] = enter(tab.service);
    } else if (dice < 0.5) {
      tab.service.setStatus(pick(moods));
    } else if (tab.service.state.joined) {
      type(tab);
    }
    setTimeout(act, PAUSE + Math.random() * 5 * PAUSE);
  };
  setTimeout(act, Math.random() * 2 * PAUSE);
}

// node dist/server/visitors.js ADDRESS: lively rooms until it is interrupted.
const [, program, address] = process.argv;
if (program !== undefined && address !== undefined && import.meta.url === pathToFileURL(program).href) {
  for (const { name } of PEOPLE.slice(1)) wander(address, name);
}
