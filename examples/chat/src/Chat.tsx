import { HttpTransport, type PresenceEvent, type PresenceStatus, type PresenceUser } from "presence-client";
import { usePresenceManager } from "presence-client/solid";
import { For, Show, createEffect, createMemo, createSignal, onCleanup } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import type { Person, Session } from "./main.jsx";
import { ago, timeOfDay } from "./time.js";

const STATUS: Record<PresenceStatus, string> = { active: "Active", busy: "Busy", idle: "Idle", away: "Away" };
const LIGHT = {
  stopped: "Signed out",
  connecting: "Connecting…",
  online: "Connected",
  reconnecting: "Reconnecting…",
  unauthorized: "Not signed in",
  offline: "No network",
};
const REMEMBERED = 100;

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

  const [happenings, setHappenings] = createSignal<{ seq: number; at: string; text: string; kind: string }[]>([]);
  createEffect(() => {
    const current = service();
    if (current === null) return;
    const forget = [
      current.on("snapshot", () => void askAround().catch(() => {})),
      current.on("change", (event) => {
        // Also of those who came and went while this page was cut off: they never stood in a list that it showed.
        if (typeof event.details.metadata?.name === "string") guests.set(event.user_id, event.details.metadata.name);
        const text = describe(event, nameOf);
        if (text !== null)
          setHappenings((old) => [
            ...old.slice(1 - REMEMBERED),
            { seq: event.seq, at: event.at, text, kind: event.event },
          ]);
      }),
    ];
    onCleanup(() => forget.forEach((each) => each()));
  });

  let log!: HTMLDivElement;
  createEffect(() => {
    happenings();
    log.scrollTop = log.scrollHeight;
  });

  const [cleaned, setCleaned] = createSignal("");
  const clean = async () => {
    setCleaned("Cleaning up…");
    const { outcome, offline, error } = await triggerCleanup();
    if (outcome === "done")
      setCleaned(offline === 0 ? "Nobody was stale." : `${offline} ${offline === 1 ? "user" : "users"} went offline.`);
    else setCleaned(outcome === "forbidden" ? "You may not do that." : `That failed: ${error?.message}`);
  };

  const mine = () => activeUsers().find((user) => user.user_id === props.me.id);

  return (
    <>
      <a class="skip" href="#people">
        Skip to the people
      </a>
      <header>
        <h1>Who is here</h1>
        <p class={`light ${connection()}`} role="status" aria-label="Connection">
          <span class="bulb" aria-hidden="true" />
          {LIGHT[connection()]}
        </p>
        <div class="me">
          <Avatar id={props.me.id} name={props.me.name} status={mine()?.status ?? "offline"} />
          <span class="name">{props.me.name}</span>
          <label class="unseen" for="status">
            My status
          </label>
          <select
            id="status"
            value={chosenStatus() ?? ""}
            onChange={(event) => service()?.setStatus((event.currentTarget.value || null) as PresenceStatus | null)}
          >
            <option value="">Automatic</option>
            <option value="busy">Busy</option>
            <option value="away">Away</option>
          </select>
          <button
            type="button"
            onClick={() => {
              service()?.leave(); // while the cookie still says who leaves
              void props.signOut();
            }}
          >
            Sign out
          </button>
        </div>
      </header>

      <main classList={{ stale: !isConnected() }}>
        <section id="people" class="people" aria-labelledby="online-title" tabindex="-1">
          <h2 id="online-title">
            Online <span class="count">{activeUsers().length}</span>
          </h2>
          <ul aria-labelledby="online-title">
            <For each={activeUsers()}>
              {(user) => (
                <li data-user={user.user_id}>
                  <Avatar id={user.user_id} name={nameIn(user)} status={user.status} />
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
          <Show when={absent().length > 0}>
            <h2 id="absent-title">Not here</h2>
            <ul aria-labelledby="absent-title" class="absent">
              <For each={absent()}>
                {([id, time]) => (
                  <li data-user={id}>
                    <Avatar id={id} name={nameOf(id)} status="offline" />
                    <div>
                      <strong>{nameOf(id)}</strong>
                      <small>
                        last seen <time dateTime={time}>{ago(time)}</time>
                      </small>
                    </div>
                  </li>
                )}
              </For>
            </ul>
          </Show>
        </section>

        <section class="room" aria-labelledby="room-title">
          <h2 id="room-title">What happens</h2>
          <div ref={log} class="log" role="log" aria-labelledby="room-title" tabindex="0">
            <Show
              when={happenings().length > 0}
              fallback={<p class="quiet">Open this page in a second browser, or close a tab: it shows here at once.</p>}
            >
              <ol>
                <For each={happenings()}>
                  {(happening) => (
                    <li class={happening.kind}>
                      <time dateTime={happening.at}>{timeOfDay(happening.at)}</time> {happening.text}
                    </li>
                  )}
                </For>
              </ol>
            </Show>
          </div>
        </section>

        <section class="stats" aria-labelledby="stats-title">
          <h2 id="stats-title">Statistics</h2>
          <dl>
            <Stat name="Users online" value={stats().online} />
            <Stat name="Tabs" value={stats().sessions} />
            <Stat name="Active, busy" value={`${stats().byStatus.active}, ${stats().byStatus.busy}`} />
            <Stat name="Idle, away" value={`${stats().byStatus.idle}, ${stats().byStatus.away}`} />
            <Stat name="Heartbeats" value={stats().heartbeatsSent} />
            <Stat name="Failed" value={stats().heartbeatsFailed} />
            <Stat name="Round trip" value={stats().latency === null ? "–" : `${stats().latency} ms`} />
            <Stat name="Reconnects" value={stats().reconnects} />
            <Stat name="Feed position" value={stats().seq ?? "–"} />
          </dl>
          <Show when={props.me.admin}>
            <button type="button" onClick={() => void clean()}>
              Clean up stale users
            </button>
            <p class="cleaned" role="status" aria-label="Clean-up">
              {cleaned()}
            </p>
          </Show>
        </section>
      </main>
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
function describe({ event, user_id, reason, details }: PresenceEvent, nameOf: (id: string) => string): string | null {
  const name = typeof details.metadata?.name === "string" ? details.metadata.name : nameOf(user_id);
  if (event === "user_online") return `${name} came in`;
  if (event === "user_offline") return reason === "timeout" ? `${name} has not been heard any more` : `${name} left`;
  if (event === "update" && details.status !== undefined) return `${name} is ${STATUS[details.status].toLowerCase()}`;
  return null;
}
