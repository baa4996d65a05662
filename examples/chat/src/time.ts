import { createSignal } from "solid-js";

// One clock for all "3 minutes ago" of the page.
const [now, setNow] = createSignal(Date.now());
setInterval(() => setNow(Date.now()), 10_000);

const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

export function ago(time: string): string {
  const seconds = Math.max(0, (now() - Date.parse(time)) / 1000);
  if (seconds < 45) return "just now";
  if (seconds < 45 * 60) return relative.format(-Math.max(1, Math.round(seconds / 60)), "minute");
  if (seconds < 22 * 3600) return relative.format(-Math.max(1, Math.round(seconds / 3600)), "hour");
  return relative.format(-Math.max(1, Math.round(seconds / 86_400)), "day");
}

const day = new Intl.DateTimeFormat("en", { weekday: "long", day: "numeric", month: "long" });

export function dayOf(time: string): string {
  const date = new Date(time).toDateString();
  if (date === new Date(now()).toDateString()) return "Today";
  if (date === new Date(now() - 86_400_000).toDateString()) return "Yesterday";
  return day.format(new Date(time));
}

export function timeOfDay(time: string): string {
  return clock.format(new Date(time));
}
