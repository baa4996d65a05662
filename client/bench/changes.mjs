// What one change of the feed costs a page: npm run bench [people]
import process, { cpuUsage } from "node:process";
import { performance } from "node:perf_hooks";
import console from "node:console";
import { PresenceService } from "../dist/esm/index.js";

const people = Number(process.argv[2] ?? 50_000);
const CHANGES = 2_000;
const at = new Date().toISOString();
const users = Array.from({ length: people }, (_, i) => ({
  user_id: `user${i}`,
  status: "active",
  sessions: 1,
  online_since: at,
  metadata: { name: `Person ${i}` },
}));

/** Changes of people all over the list: two thirds updates, the rest somebody who leaves and comes back. */
function* changes() {
  for (let seq = 1, i = 0; ; i = (i + 7919) % people) {
    const event = (name, details) => ({
      seq: seq++,
      at,
      event: name,
      user_id: `user${i}`,
      reason: "heartbeat",
      sessions: 1,
      details,
    });
    yield event("update", { status: "busy" });
    yield event("user_offline", {});
    yield event("user_online", { status: "active", metadata: { name: `Person ${i}` } });
    yield event("update", { status: "idle" });
    yield event("update", { status: "away" });
    yield event("update", { status: "active" });
  }
}

async function measure(what, { perTurn = 1, watch = () => {} }) {
  let sink;
  const transport = {
    heartbeat: async () => true,
    leave() {},
    lookUp: async () => [],
    cleanup: async () => 0,
    follow: (_since, feed) => new Promise(() => (sink = feed)),
  };
  const service = new PresenceService({ userId: "user0", autoJoin: false, transport });
  service.start();
  sink.snapshot({ seq: 0, users });
  sink.opened();
  watch(service);
  const feed = changes();
  const turns = [];
  const before = cpuUsage();
  for (let done = 0; done < CHANGES; done += perTurn) {
    const began = performance.now();
    for (let i = 0; i < perTurn; i++) sink.change(feed.next().value);
    await Promise.resolve(); // the state is published
    await Promise.resolve();
    turns.push((performance.now() - began) / perTurn);
  }
  const { user, system } = cpuUsage(before);
  service.stop();
  turns.sort((a, b) => a - b);
  const median = turns[turns.length >> 1];
  const processor = (user + system) / 1000 / CHANGES; // all that it took, with the collection of garbage in other threads
  console.log(what.padEnd(50) + [median, processor].map((ms) => ms.toFixed(4).padStart(11)).join(""));
}

console.log(`${people} people online, ms for each change`.padEnd(50) + "     median  processor");
await measure("nobody shows the list", {});
await measure("1,000 components ask for one user each", {
  watch: (service) => {
    for (let i = 0; i < 1000; i++) service.on("state", () => service.isOnline(`user${i}`));
  },
});
await measure("the list is read after each change", {
  watch: (service) => service.on("state", (state) => state.activeUsers.length),
});
await measure("the list is read after 100 changes at once", {
  perTurn: 100,
  watch: (service) => service.on("state", (state) => state.activeUsers.length),
});
