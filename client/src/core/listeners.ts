/** Event listeners that go together. Not by AbortSignal: simulated pages and older browsers take that option and ignore it. */
export class Listeners {
  #removals: (() => void)[] = [];

  add(target: EventTarget, name: string, listener: () => void, options?: AddEventListenerOptions): void {
    target.addEventListener(name, listener, options);
    this.#removals.push(() => target.removeEventListener(name, listener, options));
  }

  removeAll(): void {
    for (const remove of this.#removals.splice(0)) remove();
  }
}
