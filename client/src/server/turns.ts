/** Lets tasks of one key go one after the other, in the order in which they came; those of different keys do not wait. */
export class Turns {
  #last = new Map<string, Promise<unknown>>();

  async take<Value>(key: string, task: () => Promise<Value>): Promise<Value> {
    const before = this.#last.get(key);
    const mine = before === undefined ? task() : before.then(task);
    const done = mine.then(
      () => {},
      () => {},
    );
    this.#last.set(key, done);
    try {
      return await mine;
    } finally {
      if (this.#last.get(key) === done) this.#last.delete(key);
    }
  }

  idle(key: string): boolean {
    return !this.#last.has(key);
  }
}
