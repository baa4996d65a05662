// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  HttpTransport,
  PresenceError,
  RpcTransport,
  type FeedPosition,
  type FeedSink,
  type HeaderSource,
} from "../../src/index.js";
import { randomNumbers } from "../random.js";
import { readEventStream, type StreamEvent } from "../../src/core/eventStreamReader.js";

let requests: { url: string; init: RequestInit }[];
let answer: () => Promise<Response>;
let beacon: ReturnType<typeof vi.fn>;

beforeEach(() => {
  requests = [];
  answer = async () => Response.json({});
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    requests.push({ url, init });
    return answer();
  });
  beacon = vi.fn(() => true);
  Object.defineProperty(navigator, "sendBeacon", { configurable: true, value: beacon });
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

const beat = { user_id: "ada", session_id: "s", heartbeat_interval: 30, status: "active" as const };

describe("goodbye", () => {
  const body = JSON.stringify({ user_id: "ada", session_id: "s" });

  test("by beacon, as a plain string, which needs no preflight", () => {
    new HttpTransport().leave("ada", "s");
    expect(beacon).toHaveBeenCalledWith("/api/user-disconnect", body);
    expect(requests).toEqual([]);
  });

  test("by fetch with keepalive where the browser refuses the beacon", () => {
    beacon.mockReturnValue(false);
    new HttpTransport({ baseUrl: "/x/" }).leave("ada", "s");
    expect(requests[0]).toMatchObject({
      url: "/x/user-disconnect",
      init: { method: "POST", keepalive: true, body, credentials: "include" },
    });
  });

  test("by fetch with keepalive where a token has to go along", () => {
    new HttpTransport({ headers: () => ({ authorization: "Bearer t" }) }).leave("ada", "s");
    expect(beacon).not.toHaveBeenCalled();
    expect(requests[0]?.init).toMatchObject({ keepalive: true, headers: { authorization: "Bearer t" } });
  });

  test("with the text that the first heartbeat's answer has for it", async () => {
    const transport = new HttpTransport();
    answer = async () => Response.json({ online: true, goodbye: "proof" });
    await transport.heartbeat(beat, new AbortController().signal);
    answer = async () => Response.json({ online: true });
    await transport.heartbeat(beat, new AbortController().signal);
    transport.leave("ada", "s");
    expect(beacon).toHaveBeenLastCalledWith(
      "/api/user-disconnect",
      JSON.stringify({ user_id: "ada", session_id: "s", goodbye: "proof" }),
    );
    transport.leave("ada", "s");
    expect(beacon).toHaveBeenLastCalledWith("/api/user-disconnect", body); // forgotten with the session
  });

  test("before the first heartbeat is answered: at once, and again when the answer has that text", async () => {
    const transport = new HttpTransport();
    const abort = new AbortController();
    let reply!: (response: Response) => void;
    answer = () => new Promise((resolve) => (reply = resolve));
    const first = transport.heartbeat(beat, abort.signal);
    await new Promise((resolve) => setTimeout(resolve, 0));
    abort.abort();
    expect(requests[0]?.init.signal?.aborted).toBe(false);
    transport.leave("ada", "s");
    reply(Response.json({ online: true, goodbye: "proof" }));
    await first;
    expect(beacon.mock.calls.map(([, text]) => JSON.parse(text as string).goodbye)).toEqual([undefined, "proof"]);
  });

  test("through a gateway, signed as the session's heartbeats were, and as now", async () => {
    let who = "ada";
    const transport = new RpcTransport({ url: "/rest", headers: async () => ({ authorization: who }) });
    answer = async () => Response.json(true);
    await transport.heartbeat(beat, new AbortController().signal);
    who = "bob";
    await transport.lookUp([]);
    transport.leave("ada", "s");
    const signed = requests.slice(2).map(({ init }) => (init.headers as Record<string, string>).authorization);
    expect(signed).toEqual(["ada", "bob"]);
  });

  test("nobody hears that it failed", async () => {
    beacon.mockReturnValue(false);
    answer = () => Promise.reject(new TypeError("offline"));
    new HttpTransport().leave("ada", "s");
    new RpcTransport({ url: "/rest" }).leave("ada", "s");
    await new Promise((resolve) => setTimeout(resolve, 0)); // an unhandled rejection would fail the run
    expect(requests.map(({ url }) => url)).toEqual(["/api/user-disconnect", "/rest/rpc/handle_user_disconnect"]);
  });
});

describe("answers", () => {
  const send = () => new HttpTransport({ requestTimeout: 100 }).heartbeat(beat, new AbortController().signal);

  test("a refusal says its status and how long to wait", async () => {
    answer = async () => new Response("slow down", { status: 429, headers: { "retry-after": "7" } });
    await expect(send()).rejects.toMatchObject({ name: "PresenceError", status: 429, retryAfter: 7000 });
    answer = async () => new Response("maintenance", { status: 503, headers: { "retry-after": "86400" } });
    await expect(send()).rejects.toMatchObject({ status: 503, retryAfter: 300_000 });
  });

  test("no network, and no JSON: status 0", async () => {
    answer = () => Promise.reject(new TypeError("Failed to fetch"));
    await expect(send()).rejects.toMatchObject({ status: 0 });
    answer = async () => new Response("<html>");
    await expect(send()).rejects.toBeInstanceOf(PresenceError);
  });

  test("no answer in time", async () => {
    vi.useFakeTimers();
    answer = () =>
      new Promise((_, reject) =>
        requests[0]?.init.signal?.addEventListener("abort", () => reject(new Error("aborted"))),
      );
    const outcome = expect(send()).rejects.toMatchObject({ status: 0, message: "no answer within 100 ms" });
    await vi.advanceTimersByTimeAsync(100);
    await outcome;
    expect(vi.getTimerCount()).toBe(0);
  });

  test("a page instead of an event stream is told, not parsed for ever", async () => {
    answer = async () => new Response("<html>", { headers: { "content-type": "text/html" } });
    const follow = new HttpTransport().follow(null, {} as FeedSink, new AbortController().signal);
    await expect(follow).rejects.toThrow(/not an event stream but text\/html/);
  });
});

describe("headers", () => {
  test.each([
    ["the endpoints", (headers: HeaderSource) => new HttpTransport({ headers, requestTimeout: 100 })],
    ["a gateway", (headers: HeaderSource) => new RpcTransport({ url: "/rest", headers, requestTimeout: 100 })],
  ])("for %s may come later, and tell whether they are new since they were refused", async (_, make) => {
    let token = "old";
    const transport = make(async () => ({ authorization: token }));
    answer = async () => Response.json({ code: "expired" }, { status: 401 });
    const refusal = { status: 401, code: "expired", unauthorized: true };
    await expect(transport.heartbeat(beat, new AbortController().signal)).rejects.toMatchObject(refusal);
    expect(requests[0]?.init.headers).toMatchObject({ authorization: "old" });
    expect(await transport.renewed()).toBe(false);
    token = "new";
    expect(await transport.renewed()).toBe(true);
  });

  test("that never come are no answer in time", async () => {
    const transport = new HttpTransport({ headers: () => new Promise(() => {}), requestTimeout: 20 });
    const follow = transport.follow(null, {} as FeedSink, new AbortController().signal);
    await expect(follow).rejects.toMatchObject({ status: 0, message: "no headers within 20 ms" });
    transport.leave("ada", "s"); // does not wait for them
    expect(requests).toHaveLength(1);
  });

  test("nobody but the server knows of cookies", async () => {
    expect(await new HttpTransport().renewed()).toBe(null);
    expect(await new RpcTransport({ url: "/rest", headers: { apikey: "k" } }).renewed()).toBe(null);
  });
});

describe("the feed through a gateway", () => {
  /** One look after another at a feed that the test describes; what the page is told. */
  async function follow(since: FeedPosition | null, feed: { end: FeedPosition; oldest?: number }): Promise<string[]> {
    const told: string[] = [];
    const abort = new AbortController();
    const { seq: end, epoch } = feed.end;
    answer = async () => {
      const { url, init } = requests.at(-1)!;
      const name = url.split("/").at(-1)!;
      told.push(name);
      if (name === "presence_feed_position") return Response.json({ epoch, seq: end });
      if (name === "presence_snapshot") return Response.json([{ seq: end, epoch, user_id: null }]);
      const { seq, max_rows } = JSON.parse(init.body as string) as { seq: number; max_rows: number };
      if (seq < (feed.oldest ?? 0)) return Response.json({ code: "22023" }, { status: 400 });
      const count = Math.min(max_rows, end - seq);
      return Response.json([...Array(count).keys()].map((i) => ({ seq: seq + i + 1, event: "update", user_id: "x" })));
    };
    await new RpcTransport({ url: "/rest" }).follow(
      since,
      {
        alive: () => {},
        renew: () => {},
        lost: () => {},
        position: () => {},
        room: () => {},
        forbidden: () => {},
        typing: () => {},
        opened: () => {
          told.push("open");
          abort.abort();
        },
        snapshot: (snapshot) => told.push(`list at ${snapshot.seq}@${snapshot.epoch}`),
        change: ({ seq }) => void (seq === end && told.push(`changes up to ${seq}`)),
      },
      abort.signal,
    );
    return told.filter((word) => !word.startsWith("presence_feed"));
  }

  test("goes on where the page was", async () => {
    expect(await follow({ seq: 3, epoch: "e" }, { end: { seq: 3, epoch: "e" } })).toEqual(["open"]);
    const calls = Array<string>(3).fill("presence_changes_since");
    const told = await follow({ seq: 3, epoch: "e" }, { end: { seq: 2100, epoch: "e" } });
    expect(told).toEqual([...calls, "changes up to 2100", "open"]);
  });

  test.each([
    ["at first", null, { end: { seq: 9, epoch: "e" } }],
    ["for another epoch, whatever the number", { seq: 5, epoch: "d" }, { end: { seq: 9, epoch: "e" } }],
    ["for a position beyond the end", { seq: 10 }, { end: { seq: 9, epoch: "e" } }],
    ["for more changes than a list is worth", { seq: 0, epoch: "e" }, { end: { seq: 5001, epoch: "e" } }],
  ])("reads the list %s", async (_, since, feed) => {
    const list = `list at ${feed.end.seq}@e`;
    expect(await follow(since, feed)).toEqual(["presence_snapshot", list, "open"]);
  });

  test("reads the list where the feed no longer goes back that far", async () => {
    const told = await follow({ seq: 1, epoch: "e" }, { end: { seq: 9, epoch: "e" }, oldest: 5 });
    expect(told).toEqual(["presence_changes_since", "presence_snapshot", "list at 9@e", "open"]);
  });
});

describe("event stream", () => {
  async function read(...chunks: (string | Uint8Array)[]): Promise<StreamEvent[]> {
    const got: StreamEvent[] = [];
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(typeof chunk === "string" ? encoder.encode(chunk) : chunk);
        controller.close();
      },
    });
    await readEventStream(body, (event) => got.push(event));
    return got;
  }

  test("fields, several lines, comments, and the space after the colon", async () => {
    expect(await read("id: 5\nevent: change\ndata: {\ndata:}\n\n: hello\n\ndata\n\n")).toEqual([
      { id: "5", event: "change", data: "{\n}" },
      null,
      { id: "", event: "message", data: "" },
    ]);
  });

  /** Of the whole text at once, by the words of the specification; only line ends of servers that mix \r alone are left out. */
  function plainly(text: string): StreamEvent[] {
    const blocks = text.replaceAll("\r\n", "\n").split(/(?<=^|\n)\n/);
    return blocks.slice(0, -1).map((block) => {
      const fields = [...block.matchAll(/^([^:\n]+)(?::( ?)([^\n]*))?$/gm)];
      const last = (name: string, otherwise: string) => {
        const [, , , value = ""] = fields.filter(([, field]) => field === name).at(-1) ?? ["", "", "", otherwise];
        return value;
      };
      const data = fields.filter(([, field]) => field === "data").map(([, , , value]) => value ?? "");
      return data.length === 0 ? null : { id: last("id", ""), event: last("event", "message"), data: data.join("\n") };
    });
  }

  test("thousands of random streams, whatever is in them and however they are cut", async () => {
    const random = randomNumbers(1);
    const words = [
      "data",
      "data:",
      "data: ",
      "id",
      "event",
      "retry",
      ":",
      ": ",
      "\n",
      "\n",
      "\n\n",
      "\r\n",
      "x",
      "größer",
      "👩‍🚀",
      "{}",
      " ",
    ];
    const pieces = [
      ...words.map((word) => new TextEncoder().encode(word)),
      Uint8Array.of(0xff),
      Uint8Array.of(0xe2, 0x82),
    ];
    for (let round = 0; round < 5000; round++) {
      const bytes = Uint8Array.from(
        Array.from({ length: random(40) }, () => [...pieces[random(pieces.length)]!]).flat(),
      );
      const chunks: Uint8Array[] = [];
      for (let from = 0; from < bytes.length;) chunks.push(bytes.subarray(from, (from += 1 + random(7))));
      const text = new TextDecoder().decode(bytes);
      expect([text, await read(...chunks)]).toEqual([text, plainly(text)]);
    }
  });

  test("however the network cuts it, in the middle of a letter too", async () => {
    const bytes = new TextEncoder().encode("data: größer\r\n\r\ndata: 2\r\n\r\n");
    const cut = await read(...[...bytes].map((byte) => Uint8Array.of(byte)));
    expect(cut.map((event) => event?.data)).toEqual(["größer", "2"]);
  });

  test("each piece of a long list is a sign of life", async () => {
    const told: string[] = [];
    const list = `event: snapshot\ndata: {"seq":1,"users":[${" ".repeat(1000)}]}\n\n`;
    const bytes = new TextEncoder().encode(list);
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent < bytes.length) controller.enqueue(bytes.subarray(sent, (sent += 300)));
        else controller.close();
      },
    });
    answer = async () => new Response(body, { headers: { "content-type": "text/event-stream" } });
    const sink = { alive: () => told.push("alive"), snapshot: () => told.push("list") } as unknown as FeedSink;
    await new HttpTransport().follow(null, sink, new AbortController().signal);
    expect(told).toEqual([...Array<string>(4).fill("alive"), "list"]);
  });

  test("what was cut off at the end is no event", async () => {
    expect(await read("data: 1\n\ndata: 2\n")).toHaveLength(1);
  });
});
