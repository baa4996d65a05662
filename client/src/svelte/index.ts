export * from "./usePresenceManager.js";
export { useIsOnline, useOnlineCount } from "./selectors.js";
export { useRoom, useTyping, type Typing } from "./rooms.js";
export type { Readable } from "./store.js";
