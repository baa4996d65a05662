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

async function answerOf<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await fetch(path, init);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return (await response.json()) as T;
}

const post = async (path: string, body = "") => (await answerOf<Session>(path, { method: "POST", body })).me;

function App() {
  const [session, { mutate, refetch }] = createResource(() => answerOf<Session>("/me"));
  const changeTo = (me: Session["me"]) => void mutate((old) => old && { ...old, me });

  /** Resolves to whether the server knows who that is. */
  const signIn = async (name: string) => {
    const me = await post("/sign-in", name);
    if (me !== null) changeTo(me);
    return me !== null;
  };

  return (
    <Switch fallback={<p class="waiting">Loading…</p>}>
      <Match when={session.state === "errored"}>
        <div class="waiting">
          <p role="alert">The server does not answer.</p>
          <button type="button" class="primary" onClick={() => void refetch()}>
            Try again
          </button>
        </div>
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
      <Match when={session.latest}>{(known) => <SignIn people={known().people} signIn={signIn} />}</Match>
    </Switch>
  );
}

render(() => <App />, document.getElementById("app")!);
