/**
 * An id for this tab, kept in memory only. Storage is no place for it: a duplicated tab gets a copy of
 * sessionStorage, and then closing one of the two would end the other.
 */
export function newSessionId(): string {
  // randomUUID() exists on secure pages only; getRandomValues() also on http://192.168.x.y of a developer's phone.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
