import { PresenceError } from "./transport.js";

/** What came of asking for a clean-up. It is a value, not an exception: a button whose handler awaits nothing may ask for one. */
export interface CleanupResult {
  outcome: "done" | "forbidden" | "failed";
  /** How many users went offline. */
  offline: number;
  error: PresenceError | null;
}

export async function resultOf(cleanup: Promise<number>): Promise<CleanupResult> {
  try {
    return { outcome: "done", offline: await cleanup, error: null };
  } catch (thrown) {
    const error = PresenceError.of(thrown);
    const forbidden = error.status === 401 || error.status === 403;
    return { outcome: forbidden ? "forbidden" : "failed", offline: 0, error };
  }
}

/** While nobody is signed in. */
export function nobodyCleansUp(): Promise<CleanupResult> {
  return resultOf(Promise.reject(new PresenceError("nobody is signed in", 401)));
}
