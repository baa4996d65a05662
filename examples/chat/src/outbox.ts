import { createSignal } from "solid-js";
import { kept } from "./kept.js";

/** Written here, and not yet come back as one of the room's messages. */
export interface Outgoing {
  key: string;
  room: string;
  body: string;
  /** Why it was not sent; null: it is on its way. */
  problem: string | null;
}

/** Messages that failed stay, also over a reload, until they are sent again or thrown away. */
export function createOutbox(user: string, timeout = 10_000) {
  const store = kept<Outgoing[]>(`chat outbox ${user}`, []);
  const [outgoing, setOutgoing] = createSignal<readonly Outgoing[]>(
    store.read().map((each) => ({ ...each, problem: each.problem ?? "Not sent." })),
  );
  const change = (next: (old: readonly Outgoing[]) => readonly Outgoing[]) => store.write([...setOutgoing(next)]);
  const mark = (key: string, problem: string | null) =>
    change((old) => old.map((each) => (each.key === key ? { ...each, problem } : each)));

  /** Again with the same key: where only the answer was lost, it is written once. */
  const send = async ({ key, room, body }: Outgoing) => {
    try {
      const response = await fetch("/messages", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ key, room, body }),
        signal: AbortSignal.timeout(timeout),
      });
      if (response.ok) return; // it stays until the room has it
      const { error } = (await response.json().catch(() => ({}))) as { error?: string };
      mark(key, error ?? "The server cannot do that at the moment.");
    } catch {
      mark(key, "The server does not answer.");
    }
  };

  return {
    outgoing,
    add(room: string, body: string): void {
      const outgoing = { key: newKey(), room, body, problem: null };
      change((old) => [...old, outgoing]);
      void send(outgoing);
    },
    retry(outgoing: Outgoing): void {
      mark(outgoing.key, null);
      void send(outgoing);
    },
    /** The room has it, or nobody wants it any more. */
    remove(key: string): void {
      if (outgoing().some((each) => each.key === key)) change((old) => old.filter((each) => each.key !== key));
    },
  };
}

/** Not randomUUID(), which a page without https does not have. */
function newKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
