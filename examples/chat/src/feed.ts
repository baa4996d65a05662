import type { Message, Places } from "./messages.js";

export interface FeedSink {
  /** What was written last, instead of all that was told before. */
  history: (messages: Message[]) => void;
  message: (message: Message) => void;
  places: (places: Places) => void;
  /** Whether what is written arrives. */
  connected: (yes: boolean) => void;
}

/** A hidden page gives its stream back after this long (ms), and catches up when it is looked at. */
const LINGER = 20_000;

/**
 * Follows what is written in a room until the returned function is called. The browser comes back by itself to where it was, by Last-Event-ID,
 * but not after an answer that is no stream, and it does not notice a connection that is dead: then we begin anew from there.
 */
export function followMessages(room: string, sink: FeedSink, silenceLimit = 40_000, retryBase = 1_000): () => void {
  let source: EventSource | undefined;
  let last = ""; // the number of the last message
  let failures = 0;
  let timer: ReturnType<typeof setTimeout> | undefined; // for the next try
  let lingering: ReturnType<typeof setTimeout> | undefined;

  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  };
  const lost = (pause: number) => {
    sink.connected(false);
    clearTimeout(timer);
    timer = setTimeout(open, pause);
  };
  const open = () => {
    close();
    const query = new URLSearchParams({ room, ...(last !== "" && { after: last }) });
    const mine = (source = new EventSource(`/messages?${query}`));
    const heard = () => {
      failures = 0;
      clearTimeout(timer);
      timer = setTimeout(() => lost(0), silenceLimit);
    };
    const on = <Data>(name: string, told: (data: Data) => void) =>
      mine.addEventListener(name, (event) => {
        if (source !== mine) return;
        heard();
        if (event.lastEventId !== "") last = event.lastEventId;
        told(JSON.parse(event.data as string) as Data);
      });
    on("alive", () => {});
    on("renew", open);
    on("places", sink.places);
    on("history", sink.history);
    on("message", sink.message);
    mine.addEventListener("open", () => {
      if (source !== mine) return;
      heard();
      sink.connected(true);
    });
    mine.addEventListener("error", () => {
      if (source !== mine) return;
      // Closed: not even tried again by the browser. Otherwise it gets as long for that as for any silence.
      if (mine.readyState === EventSource.CLOSED) lost(Math.min(retryBase * 2 ** failures++, 30_000));
      else sink.connected(false);
    });
    timer = setTimeout(() => lost(0), silenceLimit);
  };

  const listeners = new AbortController();
  const { signal } = listeners;
  document.addEventListener(
    "visibilitychange",
    () => {
      clearTimeout(lingering);
      if (document.hidden) lingering = setTimeout(close, LINGER);
      else if (source === undefined) open();
    },
    { signal },
  );
  // With an open stream, a page could not be taken out of the back/forward cache.
  addEventListener("pagehide", close, { signal });
  addEventListener("pageshow", () => source ?? open(), { signal });
  open();
  return () => {
    listeners.abort();
    clearTimeout(lingering);
    close();
  };
}
