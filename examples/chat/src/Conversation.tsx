import type { PresenceEvent, PresenceService } from "presence-client";
import { useRoom, useTyping } from "presence-client/solid";
import {
  For,
  Match,
  Show,
  Switch,
  createEffect,
  createMemo,
  createSignal,
  onCleanup,
  onMount,
  untrack,
} from "solid-js";
import { Avatar } from "./Avatar.jsx";
import { Composer } from "./Composer.jsx";
import { followMessages } from "./feed.js";
import { Mark } from "./Mark.jsx";
import type { Session } from "./main.jsx";
import type { Message, Places } from "./messages.js";
import type { Outgoing, createOutbox } from "./outbox.js";
import type { Room } from "./rooms.js";
import { dayOf, timeOfDay } from "./time.js";
import { createTimeline, isMessage, type Entry, type Happening } from "./timeline.js";

/** Pixels from the end that still count as the end. */
const SLACK = 16;
/** Milliseconds without messages' connection after which the page says so. */
const PATIENCE = 2000;
/** What one person writes within this long (ms) stands together. */
const TOGETHER = 5 * 60_000;

interface Props {
  room: Room;
  me: string;
  service: PresenceService | null;
  unauthorized: boolean;
  /** It is said already that there is no connection. */
  stale: boolean;
  invisible: boolean;
  timing: Session["timing"];
  outbox: ReturnType<typeof createOutbox>;
  nameOf: (id: string) => string;
  setPlaces: (places: Places) => void;
  setUnread: (count: number) => void;
}

/** A room: what is written there, who comes and goes, who is typing. Another room is another one of these. */
export function Conversation(props: Props) {
  const { room } = untrack(() => props);
  const here = useRoom(room.id);
  const { typing, setTyping } = useTyping(room.id);
  const timeline = createTimeline();
  const [loaded, setLoaded] = createSignal(false);
  const [lost, setLost] = createSignal(false);

  // ---- messages

  const unauthorized = createMemo(() => props.unauthorized);
  createEffect(() => {
    if (unauthorized()) return;
    let late: ReturnType<typeof setTimeout> | undefined;
    const end = followMessages(
      room.id,
      {
        history(messages) {
          messages.forEach(({ key }) => props.outbox.remove(key));
          timeline.load(messages);
          // Screen readers are told of what comes from now on, not of the history.
          setTimeout(() => setLoaded(true));
        },
        message(message) {
          timeline.add(message);
          props.outbox.remove(message.key);
        },
        places: props.setPlaces,
        connected(yes) {
          clearTimeout(late);
          if (yes) setLost(false);
          else late = setTimeout(() => setLost(true), PATIENCE);
        },
      },
      props.timing.silenceLimit,
      props.timing.retryBase,
    );
    onCleanup(() => {
      clearTimeout(late);
      end();
    });
  });
  const outgoing = () => props.outbox.outgoing().filter((each) => each.room === room.id);
  createEffect(() => props.setUnread(timeline.unread()));
  onCleanup(() => props.setUnread(0));

  // ---- who comes and goes

  createEffect(() => {
    const forget = props.service?.on("change", (event) => {
      const news = event.room === room.id && event.user_id !== props.me && describe(event, props.nameOf(event.user_id));
      if (news) timeline.add(news);
    });
    onCleanup(() => forget?.());
  });

  // ---- the end is followed

  let box!: HTMLDivElement;
  const toEnd = () => void (box.scrollTop = box.scrollHeight);
  createEffect(() => {
    timeline.entries();
    outgoing();
    if (timeline.following()) toEnd();
  });
  // A phone that is turned, or a notice that appears, changes the height, not what is read.
  onMount(() => {
    const observer = new ResizeObserver(() => timeline.following() && toEnd());
    observer.observe(box);
    onCleanup(() => observer.disconnect());
  });

  const isEmpty = () => loaded() && outgoing().length === 0 && !timeline.entries().some(isMessage);

  return (
    <section class="room" aria-labelledby="room-title">
      <div class="room-head">
        <h2 id="room-title">{room.name}</h2>
        <p class="quiet">
          {room.about}
          <Show when={here().loaded}>
            {" · "}
            {here().count} here
          </Show>
        </p>
      </div>
      <div
        ref={box}
        id="log"
        class="log"
        role="log"
        aria-live="polite"
        aria-busy={!loaded()}
        aria-label={`Messages in ${room.name}`}
        tabindex="0"
        onScroll={() => timeline.follow(box.scrollHeight - box.scrollTop - box.clientHeight <= SLACK)}
      >
        <Switch>
          <Match when={!loaded()}>
            <p class="quiet empty">
              {lost() || props.stale ? "Messages cannot be loaded at the moment. Trying again." : "Loading messages…"}
            </p>
          </Match>
          <Match when={isEmpty()}>
            <p class="quiet empty">Nobody has written here yet. Be the first.</p>
          </Match>
        </Switch>
        <ol>
          <For each={timeline.entries()}>
            {(entry, index) => {
              const before = () => timeline.entries()[index() - 1];
              return (
                <>
                  <Show when={dayOf(entry.at) !== dayOf(before()?.at ?? new Date().toISOString())}>
                    <li class="day">
                      <span>{dayOf(entry.at)}</span>
                    </li>
                  </Show>
                  <Show when={isMessage(entry) && entry} fallback={<Quiet {...(entry as Happening)} />}>
                    {(message) => (
                      <Said
                        {...message()}
                        mine={message().user_id === props.me}
                        goesOn={belongTogether(before(), message())}
                      />
                    )}
                  </Show>
                </>
              );
            }}
          </For>
          <For each={outgoing()}>{(each) => <Unsent {...each} outbox={props.outbox} whole={each} />}</For>
        </ol>
      </div>
      <Show when={timeline.unread() > 0}>
        <button
          type="button"
          class="primary unread"
          onClick={() => {
            toEnd();
            box.focus(); // the button goes away
          }}
        >
          <span aria-hidden="true">↓ </span>
          {timeline.unread()} new {timeline.unread() === 1 ? "message" : "messages"}
        </button>
      </Show>
      <p class="typing">
        <Show when={!props.stale && typing().length > 0}>
          <span class="dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          {whoTypes(typing().map(props.nameOf))}
        </Show>
      </p>
      <Show when={lost() && loaded() && !props.stale}>
        <p class="quiet hint" role="status">
          New messages do not arrive at the moment. Trying again.
        </p>
      </Show>
      <Show when={props.invisible}>
        <p class="quiet hint">You appear offline. Whoever reads a message of yours knows that you are here.</p>
      </Show>
      <Composer
        room={room}
        me={props.me}
        setTyping={setTyping}
        send={(body) => {
          timeline.follow(true);
          props.outbox.add(room.id, body);
        }}
      />
    </section>
  );
}

function Said(props: Message & { mine: boolean; goesOn: boolean }) {
  return (
    <li class="said" classList={{ mine: props.mine, "goes-on": props.goesOn }} data-message={props.id}>
      <Avatar id={props.user_id} name={props.name} />
      <div class="bubble">
        <p class="by" classList={{ unseen: props.goesOn }}>
          <bdi>{props.mine ? "You" : props.name}</bdi>
          <time dateTime={props.at}>{timeOfDay(props.at)}</time>
        </p>
        <p class="body" dir="auto">
          {props.body}
        </p>
      </div>
    </li>
  );
}

function Unsent(props: Outgoing & { outbox: ReturnType<typeof createOutbox>; whole: Outgoing }) {
  return (
    <li class="said mine unsent" classList={{ failed: props.problem !== null }}>
      <div class="bubble">
        <p class="by">
          <bdi>You</bdi>
          <Show when={props.problem === null}>
            <span>Sending…</span>
          </Show>
        </p>
        <p class="body" dir="auto">
          {props.body}
        </p>
        <Show when={props.problem}>
          <p class="problem">
            <span aria-hidden="true">⚠ </span>
            {props.problem}
          </p>
          <div class="row">
            <button type="button" onClick={() => props.outbox.retry(props.whole)}>
              Try again
            </button>
            <button type="button" onClick={() => props.outbox.remove(props.key)}>
              Discard
            </button>
          </div>
        </Show>
      </div>
    </li>
  );
}

function Quiet(props: Happening) {
  return (
    <li class="happening">
      <Mark kind={props.mark} />
      <span>{props.text}</span>
      <time dateTime={props.at}>{timeOfDay(props.at)}</time>
    </li>
  );
}

function belongTogether(before: Entry | undefined, message: Message): boolean {
  return (
    isMessage(before) &&
    before.user_id === message.user_id &&
    before.name === message.name &&
    dayOf(before.at) === dayOf(message.at) &&
    Date.parse(message.at) - Date.parse(before.at) < TOGETHER
  );
}

function whoTypes(names: readonly string[]): string {
  const [first, second] = names;
  if (names.length === 1) return `${first} is typing…`;
  return names.length === 2 ? `${first} and ${second} are typing…` : `${names.length} people are typing…`;
}

/** Null for what is no news to a reader. */
function describe({ event, reason, details, at }: PresenceEvent, name: string): Happening | null {
  if (event === "room_join") return { at, text: `${name} came in`, mark: details.status ?? "active" };
  if (event !== "room_leave") return null;
  return { at, text: reason === "timeout" ? `${name} has not been heard any more` : `${name} left`, mark: "offline" };
}
