export * from "./usePresenceManager.js";
export { useIsOnline, useOnlineCount } from "./selectors.js";
