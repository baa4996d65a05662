import { cookies } from "next/headers";
import { COOKIE, sessionOf, tidyName } from "../lib/auth";
import { WhoIsOnline } from "./who-is-online";

async function signIn(form: FormData) {
  "use server";
  const name = form.get("name");
  (await cookies()).set(COOKIE, tidyName(typeof name === "string" ? name : ""), { httpOnly: true, sameSite: "lax" });
}

export default async function Page() {
  // Not the header: right after signIn() that is still the old one.
  const login = sessionOf((await cookies()).toString());
  return (
    <main>
      <h1>Who is online</h1>
      {login ? (
        <WhoIsOnline currentUser={login.userId} />
      ) : (
        <form action={signIn}>
          <label>
            Your name <input name="name" required maxLength={60} autoComplete="nickname" />
          </label>{" "}
          <button>Sign in</button>
        </form>
      )}
    </main>
  );
}
