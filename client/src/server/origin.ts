/**
 * A request that changes something must come from our own pages. A beacon carries cookies and no header of ours, so
 * without this any page on the web could log its visitors out of presence.
 */
export function comesFromOurPages(request: Request, allowedOrigins: readonly string[]): boolean {
  const origin = request.headers.get("origin");
  if (origin !== null && allowedOrigins.includes(origin)) return true;
  // Set by the browser, out of a script's reach; but only on https and localhost.
  const site = request.headers.get("sec-fetch-site");
  if (site !== null) return site === "same-origin" || site === "none"; // none: the address was typed in
  // Each browser sends Origin with a POST. Without one it is a program, which has no cookies to steal the use of.
  if (origin === null) return true;
  // Hosts only: behind a proxy that ends TLS, the scheme of our own address is not what the browser saw.
  const host = request.headers.get("host") ?? new URL(request.url).host;
  return /^https?:\/\/([^/]+)$/.exec(origin)?.[1]?.toLowerCase() === host.toLowerCase();
}

/** What lets pages of `allowedOrigins` on other hosts read our answers. */
export function corsHeaders(request: Request, allowedOrigins: readonly string[]): Record<string, string> {
  const origin = request.headers.get("origin");
  if (origin === null || !allowedOrigins.includes(origin)) return {};
  return {
    "access-control-allow-origin": origin,
    "access-control-allow-credentials": "true",
    "access-control-allow-headers": "content-type, authorization, last-event-id",
    "access-control-allow-methods": "GET, POST",
    "access-control-max-age": "7200", // longer is cut by browsers
    vary: "origin",
  };
}
