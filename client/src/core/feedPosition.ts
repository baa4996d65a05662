/** A place in the feed: everything up to `seq` is known. */
export interface FeedPosition {
  seq: number;
  /**
   * Which feed it is. Numbers count only within one: a database restored from a backup, or an extension made anew, gives them
   * again. Null or missing: not known.
   */
  epoch?: string | null;
}

/** Whether both may be of one feed: where an epoch is not known, only the numbers can tell. */
export function maybeSameFeed(a: FeedPosition, b: FeedPosition): boolean {
  return a.epoch == null || b.epoch == null || a.epoch === b.epoch;
}

/** As the id of an event stream's message, which the browser sends back as Last-Event-ID. */
export function formatPosition({ seq, epoch }: FeedPosition): string {
  return epoch == null ? String(seq) : `${seq}@${epoch}`;
}

/** Null: not such a text. */
export function parsePosition(text: string): FeedPosition | null {
  const [, digits, epoch = null] = /^(\d+)(?:@([\x21-\x7e]{1,100}))?$/.exec(text) ?? [];
  const seq = Number(digits);
  return Number.isSafeInteger(seq) ? { seq, epoch } : null;
}
