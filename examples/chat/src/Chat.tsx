import { HttpTransport, type ChoosableStatus, type PresenceUser } from "presence-client";
import { usePresenceManager } from "presence-client/solid";
import { Match, Show, Switch, createEffect, createMemo, createSignal, onCleanup } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import { Conversation } from "./Conversation.jsx";
import { Mark, markOf } from "./Mark.jsx";
import type { Person, Session } from "./main.jsx";
import type { Places } from "./messages.js";
import { createOutbox } from "./outbox.js";
import { People, nameIn } from "./People.jsx";
import { Rooms } from "./Rooms.jsx";
import { ROOMS, roomOf, type Room } from "./rooms.js";
import { timeOfDay } from "./time.js";

const LIGHT = {
  stopped: "Signed out",
  connecting: "Connecting…",
  online: "Connected",
  reconnecting: "Reconnecting…",
  unauthorized: "Not signed in",
  offline: "No network",
};
/** Milliseconds without connection after which the page says so at length: a short one is mended sooner. */
const PATIENCE = 1000;
const byName = new Intl.Collator(undefined, { numeric: true });

interface Props {
  me: Person & { admin: boolean };
  people: Person[];
  timing: Session["timing"];
  signOut: () => Promise<void>;
}

export function Chat(props: Props) {
  const { requestTimeout, ...timing } = props.timing;
  const { activeUsers, isConnected, connection, chosenStatus, stats, lastSeen, service, triggerCleanup } =
    usePresenceManager({
      currentUser: props.me.id,
      ...timing,
      // HTTP/1.1 has six connections to a site: all tabs of a person have one stream for presence, and each one for messages.
      transport: new HttpTransport({ sharedStream: true, ...(requestTimeout !== undefined && { requestTimeout }) }),
    });

  // ---- names: from the directory, and for guests from what their presence says

  const guests = new Map<string, string>(); // also of those who have left
  const names = createMemo(
    () => {
      activeUsers().forEach((user) => guests.set(user.user_id, nameIn(user)));
      return guests;
    },
    guests,
    { equals: false },
  );
  const nameOf = (id: string) => props.people.find((person) => person.id === id)?.name ?? names().get(id) ?? id;

  // ---- rooms

  const room = roomInAddress();
  const [places, setPlaces] = createSignal<Places | null>(null);
  const where = (id: string) => ROOMS.filter((room) => places()?.[room.id]?.includes(id)).map(({ name }) => name);
  const outbox = createOutbox(props.me.id, requestTimeout);
  const [unread, setUnread] = createSignal(0);

  // ---- those who are here: oneself first, the others by name, so that nobody moves but by coming and going

  const present = createMemo(() => {
    const first = (user: PresenceUser) => Number(user.user_id !== props.me.id);
    return [...activeUsers()].sort(
      (a, b) => first(a) - first(b) || byName.compare(nameIn(a), nameIn(b)) || (a.user_id < b.user_id ? -1 : 1),
    );
  });
  const mine = () => activeUsers().find((user) => user.user_id === props.me.id);
  const known = createMemo(() => stats().seq !== null);

  // ---- whether what is shown is true at the moment

  const [heardAt, setHeardAt] = createSignal<string | null>(null);
  createEffect(() => {
    if (!isConnected() && known()) setHeardAt(new Date().toISOString());
  });
  const [stale, setStale] = createSignal(false);
  createEffect(() => {
    if (isConnected()) return void setStale(false);
    const mayPass = connection() === "connecting" || connection() === "reconnecting";
    const timer = setTimeout(() => setStale(true), mayPass ? PATIENCE : 0);
    onCleanup(() => clearTimeout(timer));
  });
  createEffect(() => {
    const news = unread() === 0 ? "" : `(${unread()}) `;
    document.title = `${news}${room().name}: ${isConnected() ? `${present().length} online` : LIGHT[connection()]}`;
  });
  onCleanup(() => void (document.title = "Who is here"));

  // ---- those who are not here: asked for once, then kept right by what we see happen

  const [asked, setAsked] = createSignal(new Map<string, string>());
  const askAround = async () => {
    const found = (await service()?.lookUp(props.people.map((person) => person.id))) ?? [];
    setAsked(new Map(found.flatMap(({ user_id, last_seen }) => (last_seen === null ? [] : [[user_id, last_seen]]))));
  };
  const absent = createMemo(() => {
    const here = new Set(activeUsers().map((user) => user.user_id));
    return [...new Map([...asked(), ...lastSeen()])]
      .filter(([id]) => !here.has(id))
      .sort(([, a], [, b]) => Date.parse(b) - Date.parse(a));
  });

  createEffect(() => {
    const current = service();
    if (current === null) return;
    const forget = [
      current.on("snapshot", () => void askAround().catch(() => {})),
      current.on("change", (event) => {
        // Also of those who came and went while this page was cut off: they never stood in a list that it showed.
        const { metadata } = event.details;
        if (event.room == null && typeof metadata?.name === "string") guests.set(event.user_id, metadata.name);
      }),
    ];
    onCleanup(() => forget.forEach((each) => each()));
  });

  const [cleaned, setCleaned] = createSignal("");
  const clean = async () => {
    setCleaned("Cleaning up…");
    const { outcome, offline, error } = await triggerCleanup();
    if (outcome === "done")
      setCleaned(offline === 0 ? "Nobody was stale." : `${offline} ${offline === 1 ? "user" : "users"} went offline.`);
    else setCleaned(outcome === "forbidden" ? "You may not do that." : `That failed: ${error?.message}`);
  };

  const [refused, setRefused] = createSignal(false);
  const signOut = async () => {
    const current = service();
    setRefused(false);
    current?.leave(); // while the cookie still says who leaves
    try {
      await props.signOut();
    } catch {
      setRefused(true);
      current?.join();
    }
  };

  return (
    <>
      <a
        class="skip"
        href="#log"
        onClick={(event) => {
          event.preventDefault(); // the address names the room
          document.getElementById("log")?.focus();
        }}
      >
        Skip to the messages
      </a>
      <header class="top">
        <h1>Who is here</h1>
        <p class={`light ${connection()}`} role="status" aria-label="Connection">
          <Mark kind={markOf(connection())} />
          {LIGHT[connection()]}
        </p>
        <div class="me">
          <Avatar id={props.me.id} name={props.me.name} status={isConnected() ? mine()?.status : "offline"} />
          <span class="name">{props.me.name}</span>
          <div class="controls">
            <label class="unseen" for="status">
              My status
            </label>
            <select
              id="status"
              value={chosenStatus() ?? ""}
              onChange={(event) => service()?.setStatus((event.currentTarget.value || null) as ChoosableStatus | null)}
            >
              <option value="">Automatic</option>
              <option value="busy">Busy</option>
              <option value="away">Away</option>
              <option value="invisible">Appear offline</option>
            </select>
            <button type="button" onClick={() => void signOut()}>
              Sign out
            </button>
          </div>
        </div>
      </header>

      <Show when={stale()}>
        <section class="notice" aria-label="Connection problem">
          <p>
            <Switch fallback="The server does not answer. Trying again.">
              <Match when={connection() === "offline"}>This device has no network.</Match>
              <Match when={connection() === "unauthorized"}>You are no longer signed in.</Match>
            </Switch>
            <Show when={heardAt()}>{(time) => <> What you see is from {timeOfDay(time())}.</>}</Show>
          </p>
          <Show when={connection() === "unauthorized"}>
            <button type="button" onClick={() => void signOut()}>
              Sign in again
            </button>
          </Show>
        </section>
      </Show>

      <Show when={refused()}>
        <div class="notice" role="alert">
          <p>You are still signed in: the server does not answer. Please try again.</p>
        </div>
      </Show>

      <main classList={{ stale: stale() }}>
        <Rooms current={room().id} places={places()} nameOf={nameOf} />
        <Show when={room()} keyed>
          {(room) => (
            <Conversation
              room={room}
              me={props.me.id}
              service={service()}
              unauthorized={connection() === "unauthorized"}
              stale={stale()}
              invisible={chosenStatus() === "invisible"}
              timing={props.timing}
              outbox={outbox}
              nameOf={nameOf}
              setPlaces={setPlaces}
              setUnread={setUnread}
            />
          )}
        </Show>
        <People
          me={props.me.id}
          present={present()}
          absent={absent()}
          known={known()}
          stale={stale()}
          nameOf={nameOf}
          where={where}
        />
      </main>

      <footer>
        <Show when={props.me.admin}>
          <div class="admin">
            <button type="button" onClick={() => void clean()}>
              Clean up stale users
            </button>
            <p class="cleaned" role="status" aria-label="Clean-up">
              {cleaned()}
            </p>
          </div>
        </Show>
        <details>
          <summary>For developers</summary>
          <dl>
            <Stat name="Users online" value={stats().online} />
            <Stat name="Tabs" value={stats().sessions} />
            <Stat name="Heartbeats" value={stats().heartbeatsSent} />
            <Stat name="Failed" value={stats().heartbeatsFailed} />
            <Stat name="Round trip" value={stats().latency === null ? "–" : `${stats().latency} ms`} />
            <Stat name="Reconnects" value={stats().reconnects} />
            <Stat name="Feed position" value={stats().seq ?? "–"} />
          </dl>
        </details>
      </footer>
    </>
  );
}

function Stat(props: { name: string; value: number | string }) {
  return (
    <div>
      <dt>{props.name}</dt>
      <dd>{props.value}</dd>
    </div>
  );
}

/** The room that the address names; the first one, where it names none. */
function roomInAddress(): () => Room {
  const read = () => roomOf(location.hash.replace(/^#\/?/, ""));
  const [room, setRoom] = createSignal(read() ?? ROOMS[0]);
  const follow = () => {
    const named = read();
    if (named === undefined) history.replaceState(null, "", `#/${room().id}`);
    else setRoom(named);
  };
  follow();
  addEventListener("hashchange", follow);
  onCleanup(() => removeEventListener("hashchange", follow));
  return room;
}
