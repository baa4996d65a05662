import type { ServerResponse } from "node:http";
import pg from "pg";
import type { Message, Places } from "../src/messages.js";
import { ROOMS } from "../src/rooms.js";
import schema from "./chat.sql?raw";

/** Messages that somebody who enters a room is shown. */
const HISTORY = 50;
const PAGE = 500;
/** Notifications about presence are gathered for this long (ms) before the rooms are looked at. */
const GATHER = 100;
/** Also without a notification, which may have been lost, the rooms are looked at this often (ms). */
const POLL = 2_000;
/** How long (ms) a stream lasts before its page opens it anew, and has to be signed in for that. */
const LIFETIME = 60_000;
/** Bytes that a page may leave unread. */
const UNREAD = 1024 * 1024;

const COLUMNS = "id::float8 AS id, key, room, user_id, name, body, at";

interface Reader {
  room: string;
  /** The last message that it has; null: none, it wants the history. */
  sent: number | null;
  /** It has all up to our position, so that it need only be told what is new. */
  ready: boolean;
  response: ServerResponse;
}

/**
 * Messages as events: one connection listens for all pages. A notification only says that there is something to read, so it makes no
 * difference whether one was lost with a connection.
 */
export class Messages {
  readonly #pool = new pg.Pool({ max: 4, connectionTimeoutMillis: 5_000, query_timeout: 10_000 });
  readonly #readers = new Set<Reader>();
  #listener: pg.Client | undefined;
  #position: number | null = null; // all up to here have been passed on
  #looking = false;
  #again = false;
  #places = "{}";
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(private readonly keepAlive: number) {
    this.#pool.on("error", () => {}); // an idle connection was lost; the next query makes a new one
    void this.#listen();
  }

  /** Writes it, unless that was done already. */
  async add({ key, room, user_id, name, body }: Omit<Message, "id" | "at">): Promise<void> {
    await this.#pool.query(
      "INSERT INTO chat_message (key, room, user_id, name, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING",
      [key, room, user_id, name, body],
    );
  }

  /** Tells a page what is written in a room, from the message after `since` on, and who is in which room. */
  follow(room: string, since: number | null, response: ServerResponse): void {
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    });
    const reader: Reader = { room, sent: since, ready: false, response };
    response.write(`retry: 1000\n${frame("places", this.#places)}`);
    const alive = setInterval(() => response.write(frame("alive")), this.keepAlive);
    const renew = setTimeout(() => response.end(frame("renew")), LIFETIME);
    response.once("close", () => {
      clearInterval(alive);
      clearTimeout(renew);
      this.#readers.delete(reader);
    });
    this.#readers.add(reader);
    this.#look();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    for (const { response } of this.#readers) response.end();
    await Promise.allSettled([this.#listener?.end(), this.#pool.end()]);
  }

  async #listen(): Promise<void> {
    const client = new pg.Client({ keepAlive: true, connectionTimeoutMillis: 5_000, query_timeout: 10_000 });
    this.#listener = client;
    let poll: NodeJS.Timeout | undefined;
    let gathering: NodeJS.Timeout | undefined;
    const lost = () => {
      if (this.#listener !== client) return;
      this.#listener = undefined;
      clearInterval(poll);
      client.end().catch(() => {});
      if (!this.#closed) this.#retry = setTimeout(() => void this.#listen(), 1_000);
    };
    client.on("error", lost);
    client.on("end", lost);
    client.on("notification", ({ channel }) => {
      if (channel === "chat_message") this.#look();
      else gathering ??= setTimeout(() => void lookAround(), GATHER);
    });
    const lookAround = async () => {
      gathering = undefined;
      await this.#readPlaces(client).catch(lost);
    };
    try {
      await client.connect();
      await client.query(schema);
      const { rows } = await client.query<{ channel: string; position: number }>(
        `SELECT coalesce(current_setting('presence.notify_channel', true), 'presence') AS channel,
                coalesce(max(id), 0)::float8 AS position FROM chat_message`,
      );
      await client.query(`LISTEN chat_message; LISTEN ${client.escapeIdentifier(rows[0].channel || "presence")}`);
      this.#position ??= rows[0].position;
      await this.#readPlaces(client);
      poll = setInterval(() => void lookAround(), POLL);
      this.#look(); // what happened while nobody listened
    } catch (error) {
      if (!this.#closed) console.error("chat:", error instanceof Error ? error.message : error);
      lost();
    }
  }

  async #readPlaces(client: pg.Client): Promise<void> {
    const { rows } = await client.query<{ room: string; user_id: string }>(
      `SELECT r.room, u.user_id FROM unnest($1::text[]) AS r (room), get_room(r.room::presence_id) AS u
       ORDER BY u.entered_at, u.user_id`,
      [ROOMS.map(({ id }) => id)],
    );
    const places: Places = Object.fromEntries(ROOMS.map(({ id }) => [id, []]));
    for (const { room, user_id } of rows) places[room].push(user_id);
    const text = JSON.stringify(places);
    if (text === this.#places) return;
    this.#places = text;
    for (const reader of this.#readers) this.#send(reader, frame("places", text));
  }

  /** Any number of calls during one look make one more. */
  #look(): void {
    if (this.#looking) return void (this.#again = true);
    this.#looking = true;
    this.#readAll()
      .catch((error: unknown) => {
        if (this.#closed) return;
        console.error("chat:", error instanceof Error ? error.message : error);
        setTimeout(() => this.#look(), 1_000).unref();
      })
      .finally(() => {
        this.#looking = false;
        const again = this.#again;
        this.#again = false;
        if (again) this.#look();
      });
  }

  async #readAll(): Promise<void> {
    if (this.#position === null) return; // not connected yet
    for (const reader of this.#readers) if (!reader.ready) await this.#catchUp(reader);
    for (;;) {
      const news = await this.#read("id > $1 ORDER BY id LIMIT $2", [this.#position, PAGE]);
      for (const message of news) {
        this.#position = message.id;
        for (const reader of this.#readers)
          if (reader.ready && reader.room === message.room) this.#tell(reader, message);
      }
      if (news.length < PAGE) return;
    }
  }

  /** Whatever is written meanwhile comes with what is new, and whatever comes twice is told once. */
  async #catchUp(reader: Reader): Promise<void> {
    const { room, sent } = reader;
    // A number that has not been given yet is of another table, which was here before.
    if (sent === null || sent > (await this.#newest())) {
      const history = await this.#read("room = $1 ORDER BY id DESC LIMIT $2", [room, HISTORY]);
      reader.sent = history[0]?.id ?? 0;
      this.#send(reader, frame("history", JSON.stringify(history.reverse()), reader.sent));
    } else {
      const missed = await this.#read("room = $1 AND id > $2 ORDER BY id", [room, sent]);
      for (const message of missed) this.#tell(reader, message);
    }
    reader.ready = true;
  }

  async #read(where: string, values: unknown[]): Promise<Message[]> {
    return (await this.#pool.query<Message>(`SELECT ${COLUMNS} FROM chat_message WHERE ${where}`, values)).rows;
  }

  async #newest(): Promise<number> {
    return (await this.#read("true ORDER BY id DESC LIMIT 1", []))[0]?.id ?? 0;
  }

  #tell(reader: Reader, message: Message): void {
    if (message.id <= (reader.sent ?? Infinity)) return;
    reader.sent = message.id;
    this.#send(reader, frame("message", JSON.stringify(message), message.id));
  }

  #send({ response }: Reader, text: string): void {
    response.write(text);
    if (response.writableLength > UNREAD) response.destroy(); // it comes back for what it has not read
  }
}

function frame(event: string, data = "{}", id?: number): string {
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${data}\n\n`;
}
