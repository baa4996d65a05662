import { Match, Switch, createResource } from "solid-js";
import { render } from "solid-js/web";
import { Chat } from "./Chat.jsx";
import { SignIn } from "./SignIn.jsx";
import "./style.css";

export interface Person {
  id: string;
  name: string;
}

export interface Session {
  me: (Person & { admin: boolean }) | null;
  people: Person[];
  timing: Record<string, number>;
}

async function post(path: string, body = ""): Promise<Session["me"]> {
  return ((await (await fetch(path, { method: "POST", body })).json()) as Session).me;
}

function App() {
  const [session, { mutate }] = createResource<Session>(async () => (await (await fetch("/me")).json()) as Session);
  const changeTo = (me: Session["me"]) => void mutate((old) => old && { ...old, me });

  return (
    <Switch fallback={<p class="waiting">Loading…</p>}>
      <Match when={session.error !== undefined}>
        <p class="waiting" role="alert">
          The server does not answer. Please try again.
        </p>
      </Match>
      <Match when={session.latest?.me} keyed>
        {(me) => (
          <Chat
            me={me}
            people={session.latest!.people}
            timing={session.latest!.timing}
            signOut={async () => changeTo(await post("/sign-out"))}
          />
        )}
      </Match>
      <Match when={session.latest}>
        {(known) => <SignIn people={known().people} signIn={async (name) => changeTo(await post("/sign-in", name))} />}
      </Match>
    </Switch>
  );
}

render(() => <App />, document.getElementById("app")!);
