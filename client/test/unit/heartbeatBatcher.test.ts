import { expect, test } from "vitest";
import type { SessionDetails } from "../../src/server/database.js";
import { HeartbeatBatcher } from "../../src/server/heartbeatBatcher.js";

const details: SessionDetails = { userAgent: null, address: null, interval: 30, status: null, metadata: null };
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A database in the test's hands: what was asked of it, in order, and the answers that are still owed. */
function open() {
  const asked: string[] = [];
  const owed: (() => void)[] = [];
  const ask = <Value>(what: string, answer: Value) =>
    new Promise<Value>((resolve) => {
      asked.push(what);
      owed.push(() => resolve(answer));
    });
  const batcher = new HeartbeatBatcher(
    {
      one: (user, session, { status }) => ask(`beat ${user}/${session} ${status}`, true),
      many: (users) => ask(`batch ${users.join()}`, users.length),
    },
    0,
  );
  return {
    batcher,
    asked,
    beat: (status: string | null = null) => batcher.beat("ada", "s", { ...details, status }),
    end: () => batcher.end("ada", "s", () => ask("goodbye", true)),
    answer: async () => {
      owed.shift()?.();
      await turn();
    },
  };
}

test("a goodbye waits for the heartbeat before it, and the next heartbeat for the goodbye", async () => {
  const { asked, beat, end, answer } = open();
  const all = Promise.all([beat("busy"), end(), beat("away")]);
  await turn();
  expect(asked).toEqual(["beat ada/s busy"]);
  await answer();
  expect(asked).toEqual(["beat ada/s busy", "goodbye"]);
  await answer();
  expect(asked).toEqual(["beat ada/s busy", "goodbye", "beat ada/s away"]);
  await answer();
  expect(await all).toEqual([true, true, true]);
});

test("a goodbye waits for a batch that is under way, too", async () => {
  const { batcher, asked, beat, end, answer } = open();
  void beat();
  await answer();
  const second = beat();
  await turn();
  batcher.flush();
  const goodbye = end();
  await turn();
  expect(asked).toEqual(["beat ada/s null", "batch ada"]);
  await answer();
  expect(await second).toBe(true);
  await answer();
  expect(await goodbye).toBe(true);
  expect(asked.at(-1)).toBe("goodbye");
});

test("one call at a time for each user, and others go on", async () => {
  const { batcher, asked, beat } = open();
  void beat("busy");
  void batcher.beat("ada", "other tab", details);
  void batcher.beat("bob", "s", details);
  await turn();
  expect(asked).toEqual(["beat ada/s busy", "beat bob/s null"]);
});

test("one locked user fails alone, whatever batch he is in", async () => {
  let calls = 0;
  const batcher = new HeartbeatBatcher(
    {
      one: async () => true,
      many: async (users) => {
        calls++;
        if (users.includes("user500")) throw Object.assign(new Error("lock timeout"), { code: "55P03" });
        return users.length;
      },
    },
    0,
  );
  const all = [...Array(1000).keys()];
  const beat = (i: number) => batcher.beat(`user${i}`, "s", details);
  await Promise.all(all.map(beat));
  const answers = await Promise.allSettled(all.map(beat));
  expect(answers.flatMap(({ status }, i) => (status === "rejected" ? [i] : []))).toEqual([500]);
  expect(calls).toBeLessThan(70);
});

test("a heartbeat that failed holds nobody up", async () => {
  const failing = new HeartbeatBatcher({ one: () => Promise.reject(new Error("no")), many: async () => 0 }, 0);
  const beat = failing.beat("ada", "s", details);
  const goodbye = failing.end("ada", "s", async () => "gone");
  await expect(beat).rejects.toThrow("no");
  expect(await goodbye).toBe("gone");
});
