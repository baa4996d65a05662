import { followAnswer } from "../sharedService.js";
import { storeOf, type Readable } from "./store.js";

/** Whether that user is online, as far as the signed-in one may see; false while that is not known. */
export function useIsOnline(userId: string): Readable<boolean> {
  return storeOf(false, (tell) => followAnswer((service) => service.isOnline(userId), false, tell));
}

/** How many users are online. */
export function useOnlineCount(): Readable<number> {
  return storeOf(0, (tell) => followAnswer((service) => service.onlineCount, 0, tell));
}
