import { Listeners } from "./listeners.js";

export interface PageObserver {
  /** The page is being closed, or goes into the back/forward cache. */
  closed(): void;
  /** These two also come to a page that is gone: hidden after closing, shown before it is back from the cache. */
  hidden(): void;
  shown(): void;
  /** Back from the cache, thawed, or the network is back: whatever was under way may be dead. */
  woken(): void;
  networkLost(): void;
}

/** What happens to the page around us: seen, hidden, frozen, cached, closed. Where there is no page, nothing does. */
export class Page {
  /** Nobody is here: the page is closing, lies in the back/forward cache, or is rendered ahead and may never be looked at. */
  gone = false;
  #listeners = new Listeners();

  constructor(private readonly observer: PageObserver) {}

  get hidden(): boolean {
    return globalThis.document?.visibilityState === "hidden";
  }

  start(): void {
    const { window, document } = globalThis;
    this.gone = (document as { prerendering?: boolean } | undefined)?.prerendering === true;
    if (window === undefined || document === undefined) return;
    const on = (target: EventTarget, name: string, listener: () => void) => this.#listeners.add(target, name, listener);
    // Not beforeunload: it also comes for downloads, for mailto: links and for a "Leave site?" answered with no.
    on(window, "pagehide", () => this.#close());
    on(window, "pageshow", () => this.#comeBack());
    on(document, "prerenderingchange", () => this.#comeBack());
    on(document, "visibilitychange", () => (this.hidden ? this.observer.hidden() : this.observer.shown()));
    on(document, "resume", () => this.#wake());
    on(window, "online", () => this.#wake());
    on(window, "offline", () => this.observer.networkLost());
  }

  stop(): void {
    this.#listeners.removeAll();
  }

  #close(): void {
    if (this.gone) return;
    this.gone = true;
    this.observer.closed();
  }

  #comeBack(): void {
    if (!this.gone) return;
    this.gone = false;
    this.observer.woken();
  }

  #wake(): void {
    if (!this.gone) this.observer.woken();
  }
}
