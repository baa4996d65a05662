interface Request {
  grant: () => void;
  steal: (error: Error) => void;
}

/** navigator.locks as far as we use it, for a Node.js that has none: exclusive locks, in the order of asking, with `signal` and `steal`. */
export class Locks {
  #held = new Map<string, Request>();
  #queues = new Map<string, Request[]>();

  request(name: string, options: { signal?: AbortSignal; steal?: boolean }, action: () => unknown): Promise<unknown> {
    const queue = this.#queues.get(name) ?? [];
    this.#queues.set(name, queue);
    return new Promise((resolve, reject) => {
      const abandon = () => {
        const place = queue.indexOf(request);
        if (place < 0) return; // it was granted
        queue.splice(place, 1);
        reject(new DOMException("aborted", "AbortError"));
      };
      const request: Request = {
        grant: () => {
          options.signal?.removeEventListener("abort", abandon);
          this.#held.set(name, request);
          // As another task, as a browser does.
          setTimeout(() => {
            Promise.resolve()
              .then(action)
              .then(resolve, reject)
              .finally(() => {
                if (this.#held.get(name) !== request) return; // stolen
                this.#held.delete(name);
                queue.shift()?.grant();
              });
          });
        },
        steal: reject,
      };
      if (options.signal?.aborted) return reject(new DOMException("aborted", "AbortError"));
      options.signal?.addEventListener("abort", abandon);
      const holder = this.#held.get(name);
      if (options.steal) holder?.steal(new DOMException("stolen", "AbortError"));
      if (options.steal || holder === undefined) request.grant();
      else queue.push(request);
    });
  }
}
