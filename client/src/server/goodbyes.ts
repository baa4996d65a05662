import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/**
 * What a page shows when it ends a session of its own. Cookies do not serve for that: when a user changes accounts or signs out,
 * they often change before the page says goodbye, and then his session would stay until it times out.
 */
export class Goodbyes {
  constructor(private readonly secret: string | Uint8Array = randomBytes(32)) {}

  of(user: string, session: string): string {
    return this.#digest(user, session).toString("base64url");
  }

  fits(user: string, session: string, goodbye: string): boolean {
    const given = Buffer.from(goodbye, "base64url");
    const right = this.#digest(user, session);
    return given.length === right.length && timingSafeEqual(given, right);
  }

  #digest(user: string, session: string): Buffer {
    const text = JSON.stringify(["presence goodbye", user, session]);
    return createHmac("sha256", this.secret).update(text).digest().subarray(0, 16);
  }
}
