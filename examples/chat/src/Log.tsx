import { For, Show, createEffect, createSignal, onCleanup, onMount } from "solid-js";
import { Mark, type MarkKind } from "./Mark.jsx";
import { timeOfDay } from "./time.js";

export interface Happening {
  at: string;
  text: string;
  mark: MarkKind;
}

/** Shown while the reader is at the end, and at most while he reads further up. */
const REMEMBERED = 100;
const REMEMBERED_WHILE_READING = 1000;
/** Pixels from the end that still count as the end. */
const SLACK = 16;

/** Follows what happens as long as its end is in view; whoever reads further up is left where he is and told how much is new. */
export function createLog() {
  const [entries, setEntries] = createSignal<readonly Happening[]>([]);
  const [unread, setUnread] = createSignal(0);
  const [following, setFollowing] = createSignal(true);

  return {
    entries,
    unread,
    following,
    add(entry: Happening): void {
      // Nothing is taken away above what somebody reads, which would move it.
      setEntries((old) => [...old, entry].slice(following() ? -REMEMBERED : -REMEMBERED_WHILE_READING));
      if (!following()) setUnread((count) => count + 1);
    },
    follow(yes: boolean): void {
      setFollowing(yes);
      if (!yes) return;
      setUnread(0);
      setEntries((old) => (old.length > REMEMBERED ? old.slice(-REMEMBERED) : old));
    },
  };
}

export function Log(props: { log: ReturnType<typeof createLog> }) {
  let box!: HTMLDivElement;
  const toEnd = () => void (box.scrollTop = box.scrollHeight);
  createEffect(() => {
    props.log.entries();
    if (props.log.following()) toEnd();
  });
  // A phone that is turned, or a notice that appears, changes the height, not what is read.
  onMount(() => {
    const observer = new ResizeObserver(() => props.log.following() && toEnd());
    observer.observe(box);
    onCleanup(() => observer.disconnect());
  });

  return (
    <section class="room" aria-labelledby="room-title">
      <h2 id="room-title">What happens</h2>
      <div
        ref={box}
        class="log"
        role="log"
        aria-labelledby="room-title"
        tabindex="0"
        onScroll={() => props.log.follow(box.scrollHeight - box.scrollTop - box.clientHeight <= SLACK)}
      >
        <Show
          when={props.log.entries().length > 0}
          fallback={<p class="quiet">Quiet so far. Who comes, goes or changes status is told here.</p>}
        >
          <ol>
            <For each={props.log.entries()}>
              {(entry) => (
                <li>
                  <Mark kind={entry.mark} />
                  <time dateTime={entry.at}>{timeOfDay(entry.at)}</time>
                  <span>{entry.text}</span>
                </li>
              )}
            </For>
          </ol>
        </Show>
      </div>
      <Show when={props.log.unread() > 0}>
        <button
          type="button"
          class="primary unread"
          onClick={() => {
            toEnd();
            box.focus(); // the button goes away
          }}
        >
          <span aria-hidden="true">↓ </span>
          {props.log.unread()} new
        </button>
      </Show>
    </section>
  );
}
