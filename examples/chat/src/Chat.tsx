import { HttpTransport, type ChoosableStatus, type PresenceEvent, type PresenceUser } from "presence-client";
import { usePresenceManager } from "presence-client/solid";
import { For, Match, Show, Switch, createEffect, createMemo, createSignal, onCleanup } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import { Log, createLog } from "./Log.jsx";
import { Mark, STATUS, markOf, type MarkKind } from "./Mark.jsx";
import type { Person, Session } from "./main.jsx";
import { ago, timeOfDay } from "./time.js";

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
      ...(requestTimeout !== undefined && { transport: new HttpTransport({ requestTimeout }) }),
    });

  // ---- names: from the directory, and for guests from what their presence says

  const guests = new Map<string, string>();
  createEffect(() => activeUsers().forEach((user) => guests.set(user.user_id, nameIn(user))));
  const nameOf = (id: string) => props.people.find((person) => person.id === id)?.name ?? guests.get(id) ?? id;

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
    document.title = isConnected() ? `Who is here (${present().length})` : `Who is here: ${LIGHT[connection()]}`;
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

  // ---- what happens in the room

  const log = createLog();
  createEffect(() => {
    const current = service();
    if (current === null) return;
    const forget = [
      current.on("snapshot", () => void askAround().catch(() => {})),
      current.on("change", (event) => {
        // Also of those who came and went while this page was cut off: they never stood in a list that it showed.
        if (typeof event.details.metadata?.name === "string") guests.set(event.user_id, event.details.metadata.name);
        const news = describe(event, nameOf);
        if (news !== null) log.add({ at: event.at, ...news });
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
      <a class="skip" href="#people">
        Skip to the people
      </a>
      <header>
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
        <section id="people" class="people" aria-labelledby="online-title" tabindex="0">
          <h2 id="online-title">
            {stale() && known() ? "Were online" : "Online"}{" "}
            <Show when={known()}>
              <span class="count">{present().length}</span>
            </Show>
          </h2>
          <ul aria-labelledby="online-title">
            <For each={present()}>
              {(user) => (
                <li data-user={user.user_id}>
                  <Avatar id={user.user_id} name={nameIn(user)} status={stale() ? "waiting" : user.status} />
                  <div>
                    <strong>
                      {nameIn(user)}
                      <Show when={user.user_id === props.me.id}> (you)</Show>
                    </strong>
                    <small>
                      {STATUS[user.status]} · {user.sessions} {user.sessions === 1 ? "tab" : "tabs"}
                    </small>
                  </div>
                </li>
              )}
            </For>
          </ul>
          <Switch>
            <Match when={!known()}>
              <p class="quiet">{stale() ? "Not known before there is a connection." : "Looking who is here…"}</p>
            </Match>
            <Match when={present().every((user) => user.user_id === props.me.id)}>
              <p class="quiet">Nobody else is here. Open this page in a second browser and sign in as somebody else.</p>
            </Match>
          </Switch>
          <Show when={absent().length > 0}>
            <h2 id="absent-title">Not here</h2>
            <ul aria-labelledby="absent-title" class="absent">
              <For each={absent()}>
                {([id, time]) => (
                  <li data-user={id}>
                    <Avatar id={id} name={nameOf(id)} status="offline" />
                    <div>
                      <strong>{nameOf(id)}</strong>
                      <small>last seen {ago(time)}</small>
                    </div>
                  </li>
                )}
              </For>
            </ul>
          </Show>
        </section>

        <Log log={log} />
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

function nameIn(user: PresenceUser): string {
  return typeof user.metadata?.name === "string" ? user.metadata.name : user.user_id;
}

/** Null for what is no news to a reader. */
function describe(
  { event, user_id, reason, details }: PresenceEvent,
  nameOf: (id: string) => string,
): { text: string; mark: MarkKind } | null {
  const name = typeof details.metadata?.name === "string" ? details.metadata.name : nameOf(user_id);
  if (event === "user_online") return { text: `${name} came in`, mark: details.status ?? "active" };
  if (event === "user_offline")
    return { text: reason === "timeout" ? `${name} has not been heard any more` : `${name} left`, mark: "offline" };
  if (event === "update" && details.status !== undefined)
    return { text: `${name} is ${STATUS[details.status].toLowerCase()}`, mark: details.status };
  return null;
}
