import { For, Show, createSignal, onMount } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import type { Person } from "./main.jsx";
import { tidyName } from "./people.js";

export function SignIn(props: { people: Person[]; signIn: (name: string) => Promise<boolean> }) {
  const [name, setName] = createSignal("");
  const [problem, setProblem] = createSignal("");
  const [busy, setBusy] = createSignal(false);
  let field!: HTMLInputElement;
  onMount(() => field.focus());

  const join = async (as: string) => {
    setProblem("");
    if (tidyName(as) === "") {
      setProblem("Write a name with at least one visible character. An emoji will do.");
      return field.focus();
    }
    if (busy()) return;
    setBusy(true);
    try {
      if (!(await props.signIn(as))) setProblem("The server does not accept that name. Please choose another one.");
    } catch {
      setProblem("The server does not answer. Please try again.");
    } finally {
      setBusy(false);
    }
  };

  return (
    <main class="sign-in">
      <h1>Who are you?</h1>
      <form
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void join(name());
        }}
      >
        <label for="name">Your name</label>
        <div class="row">
          <input
            ref={field}
            id="name"
            autocomplete="name"
            maxLength={60}
            required
            aria-invalid={problem() !== ""}
            aria-describedby="problem"
            value={name()}
            onInput={(event) => {
              setName(event.currentTarget.value);
              setProblem("");
            }}
          />
          <button type="submit" class="primary">
            Join
          </button>
        </div>
        <p id="problem" class="problem" role="alert">
          <Show when={problem() !== ""}>
            <span aria-hidden="true">⚠ </span>
            {problem()}
          </Show>
        </p>
      </form>
      <h2>or be one of</h2>
      <ul class="faces">
        <For each={props.people}>
          {(person) => (
            <li>
              <button type="button" onClick={() => void join(person.name)}>
                <Avatar id={person.id} name={person.name} />
                <span>{person.name}</span>
              </button>
            </li>
          )}
        </For>
      </ul>
    </main>
  );
}
