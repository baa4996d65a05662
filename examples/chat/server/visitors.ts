import { pathToFileURL } from "node:url";
import { HttpTransport, PresenceService, type PresenceOptions, type ChoosableStatus } from "presence-client";
import { PEOPLE, idOf } from "../src/people.js";

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

/** People who come, are busy for a while, open a second tab, and go. */
function wander(address: string, name: string): void {
  const tabs: PresenceService[] = [];
  const moods: (ChoosableStatus | null)[] = [null, null, null, "busy", "away"];
  const pick = <T>(list: readonly T[]) => list[Math.floor(Math.random() * list.length)];
  const act = () => {
    if (tabs.length === 0 || (tabs.length < 3 && Math.random() < 0.2)) {
      const tab = visitor(address, name);
      tab.start();
      tabs.push(tab);
    } else if (Math.random() < 0.4) {
      tabs.pop()?.stop();
    } else {
      tabs[0]?.setStatus(pick(moods) ?? null);
    }
    setTimeout(act, 5_000 + Math.random() * 25_000);
  };
  setTimeout(act, Math.random() * 10_000);
}

// node dist/server/visitors.js ADDRESS: a lively room until it is interrupted.
const [, program, address] = process.argv;
if (program !== undefined && address !== undefined && import.meta.url === pathToFileURL(program).href) {
  for (const { name } of PEOPLE.slice(1)) wander(address, name);
}
