import { BlockList, isIP } from "node:net";

/**
 * The address of the person behind the request. X-Forwarded-For is believed only as far as trusted proxies wrote it: from the right, until the first
 * hop that is not one of ours. Anybody can send the rest.
 */
export function addressFinder(
  trustedProxies: readonly string[],
): (request: Request, peer: string | undefined) => string | null {
  const trusted = new BlockList();
  for (const entry of trustedProxies) {
    const [address = "", bits] = entry.split("/");
    const family = isIP(address) === 6 ? "ipv6" : "ipv4";
    if (isIP(address) === 0)
      throw new Error(`presence: "${entry}" in trustedProxies is neither an address nor a network`);
    trusted.addSubnet(address, bits === undefined ? (family === "ipv6" ? 128 : 32) : Number(bits), family);
  }
  const isTrusted = (address: string) => trusted.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");

  return (request, peer) => {
    let address = clean(peer ?? "");
    const hops = (request.headers.get("x-forwarded-for") ?? "").split(",").map(clean);
    while (address !== null && isTrusted(address) && hops.length > 0) {
      const next = hops.pop() ?? null;
      if (next === null) break;
      address = next;
    }
    return address;
  };
}

/** Without port, brackets, zone and IPv4-in-IPv6 prefix; null when it is no address at all. */
function clean(text: string): string | null {
  const address = text
    .trim()
    .replace(/^\[(.*)\](:\d+)?$/, "$1")
    .replace(/^(\d+\.\d+\.\d+\.\d+):\d+$/, "$1")
    .replace(/^::ffff:(?=\d+\.)/i, "")
    .replace(/%.*$/, "");
  return isIP(address) === 0 ? null : address;
}
