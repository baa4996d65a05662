export const COOKIE = "starter_name";

/** Anybody is who he says he is: this is a demonstration. Put the look-up of your own session cookie here. */
export function sessionOf(cookies: string | null): { userId: string; name: string } | null {
  const value = new RegExp(`(?:^|;\\s*)${COOKIE}=([^;]+)`).exec(cookies ?? "")?.[1] ?? "";
  try {
    const name = tidyName(decodeURIComponent(value));
    return name === "" ? null : { userId: name.toLowerCase(), name };
  } catch {
    return null; // not one of our cookies
  }
}

export function tidyName(text: string): string {
  return [...text.replace(/[\p{C}\s]+/gu, " ")].slice(0, 60).join("").trim();
}
