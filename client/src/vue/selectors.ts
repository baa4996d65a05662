import { shallowRef, toValue, type MaybeRefOrGetter, type ShallowRef } from "vue";
import { followAnswer } from "../sharedService.js";
import { inPage } from "./inPage.js";

/** Whether that user is online, as far as the signed-in one may see; false while that is not known. */
export function useIsOnline(userId: MaybeRefOrGetter<string>): Readonly<ShallowRef<boolean>> {
  const online = shallowRef(false);
  inPage(
    () => toValue(userId),
    (id) =>
      followAnswer(
        (service) => service.isOnline(id),
        false,
        (now) => (online.value = now),
      ),
  );
  return online;
}

/** How many users are online. */
export function useOnlineCount(): Readonly<ShallowRef<number>> {
  const count = shallowRef(0);
  inPage(
    () => null,
    () =>
      followAnswer(
        (service) => service.onlineCount,
        0,
        (now) => (count.value = now),
      ),
  );
  return count;
}
