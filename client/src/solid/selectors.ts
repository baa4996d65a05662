import { createEffect, createSignal, onCleanup, type Accessor } from "solid-js";
import type { PresenceService } from "../presenceService.js";
import { followAnswer } from "../sharedService.js";

/** An answer of the service that a usePresenceManager() anywhere in the page keeps running. What `ask` reads of signals is tracked. */
function answerOf<Value>(ask: () => (service: PresenceService) => Value, unknown: Value): Accessor<Value> {
  const [answer, setAnswer] = createSignal(unknown);
  // Effects do not run on the server.
  createEffect(() => {
    const read = ask();
    onCleanup(followAnswer(read, unknown, (now) => setAnswer(() => now)));
  });
  return answer;
}

/** Whether that user is online, as far as the signed-in one may see; false while that is not known. An accessor where the id can change. */
export function useIsOnline(userId: string | Accessor<string>): Accessor<boolean> {
  return answerOf(() => {
    const id = typeof userId === "function" ? userId() : userId;
    return (service) => service.isOnline(id);
  }, false);
}

/** How many users are online. */
export function useOnlineCount(): Accessor<number> {
  return answerOf(() => (service) => service.onlineCount, 0);
}
