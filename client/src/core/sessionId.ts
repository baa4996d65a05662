/**
 * An id for this tab, kept in memory only. Storage is no place for it: a duplicated tab gets a copy of
 * sessionStorage, and then closing one of the two would end the other.
 */
export function newSessionId(): string {
  // randomUUID() exists on secure pages only; getRandomValues() also on http://192.168.x.y of a developer's phone.
  const bytes = new Uint8Array(16);
  // Node 18 has none of it: simulated clients only, whose ids need not be secret.
  if (globalThis.crypto === undefined) bytes.forEach((_, index) => (bytes[index] = Math.random() * 256));
  else crypto.getRandomValues(bytes);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
