import { Listeners } from "./listeners.js";
import { Stored } from "./storage.js";
import { isChoosable, PresenceError, type StatusTransport } from "./transport.js";
import type { StatusChoice } from "./types.js";

export const NO_CHOICE: StatusChoice = { status: null, until: null, message: null };

interface Kept {
  choice: StatusChoice;
  /** Chosen here, and not yet said to the server. */
  pending: boolean;
}

export interface ChosenStatusOptions {
  /** Undefined: the transport knows of no such thing. */
  transport: StatusTransport | undefined;
  userId: string;
  /** Whether the server may be asked at the moment. */
  ready: () => boolean;
  /** The server counts this tab as online. */
  joined: () => boolean;
  changed: () => void;
  failed: (error: PresenceError) => void;
}

/**
 * The status that a person chose: the server's word, which holds in all tabs and on all devices, whoever asks. What the browser keeps
 * is shown until the server has answered, and what could not be said to it yet.
 */
export class ChosenStatus {
  #kept: Kept;
  #stored: Stored;
  #listeners = new Listeners();
  #behind = true; // the server has not been asked since it may have known better
  #asking = false;
  #again = false;

  constructor(private readonly options: ChosenStatusOptions) {
    this.#stored = new Stored("localStorage", `presence status of ${options.userId}`);
    this.#kept = this.#remembered();
  }

  get choice(): StatusChoice {
    return this.#kept.choice;
  }

  start(): void {
    // Other tabs are told by the browser. The one that wrote is not.
    if (globalThis.window !== undefined) this.#listeners.add(window, "storage", () => this.look());
    this.look();
  }

  stop(): void {
    this.#behind = true;
    this.#listeners.removeAll();
  }

  choose(choice: StatusChoice): void {
    if (this.options.transport === undefined) throw new Error("presence: this transport knows no chosen status");
    this.#keep({ choice, pending: true });
    this.ask();
  }

  /** Takes over what another tab has chosen. */
  look(): void {
    this.#set(this.#remembered());
  }

  /** Says what was chosen here, or asks: something was chosen elsewhere, or is over. */
  ask(): void {
    this.#behind = true;
    if (this.#asking) this.#again = true;
    else void this.#ask();
  }

  /** The server answers, so that what it could not be asked can be asked now. */
  reached(): void {
    if (this.#behind && !this.#asking) void this.#ask();
  }

  async #ask(): Promise<void> {
    const { transport, userId, ready, failed } = this.options;
    if (transport === undefined || !ready()) return;
    this.#asking = true;
    try {
      do {
        this.#again = false;
        const kept = this.#kept;
        const answer = kept.pending
          ? choiceOf(await transport.choose(userId, kept.choice))
          : await this.#read(transport);
        // Otherwise something was chosen meanwhile, perhaps what was shown already, which is the server's next.
        if (this.#kept === kept) this.#keep({ choice: answer, pending: false });
        else this.#again = true;
      } while (this.#again && ready());
      this.#behind = this.#again;
    } catch (thrown) {
      const error = PresenceError.of(thrown);
      const refused = error.status >= 400 && error.status < 500 && error.status !== 429 && !error.unauthorized;
      // It would say no each time. What was not taken has changed nothing, so what holds is to be asked for.
      this.#behind = !refused || this.#kept.pending;
      if (refused && this.#kept.pending) this.#keep({ choice: NO_CHOICE, pending: false });
      failed(error);
    } finally {
      this.#asking = false;
    }
  }

  async #read(transport: StatusTransport): Promise<StatusChoice> {
    const { online, ...answer } = await transport.read(this.options.userId);
    const hidden = online === false && this.options.joined(); // who is here, and shown as offline, has chosen that
    return choiceOf(hidden ? { ...answer, status: "invisible" } : answer);
  }

  #remembered(): Kept {
    const kept = this.#stored.read() as Partial<Kept> | null;
    return { choice: choiceOf(kept?.choice), pending: kept?.pending === true };
  }

  #keep(kept: Kept): void {
    this.#stored.write(kept);
    this.#set(kept);
  }

  #set({ choice, pending }: Kept): void {
    const changed = JSON.stringify(choice) !== JSON.stringify(this.#kept.choice);
    this.#kept = { choice, pending };
    if (changed) this.options.changed();
  }
}

/** Whatever came from the browser's memory or the server, as a choice. */
function choiceOf(value: unknown): StatusChoice {
  const { status, until, message } = (value ?? {}) as Partial<Record<keyof StatusChoice, unknown>>;
  return {
    status: isChoosable(status) ? status : null,
    until: typeof until === "string" ? until : null,
    message: typeof message === "string" ? message : null,
  };
}
