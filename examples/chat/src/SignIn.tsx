import { For, createSignal, onMount } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import type { Person } from "./main.jsx";

export function SignIn(props: { people: Person[]; signIn: (name: string) => Promise<void> }) {
  const [name, setName] = createSignal("");
  let field!: HTMLInputElement;
  onMount(() => field.focus());

  return (
    <main class="sign-in">
      <h1>Who are you?</h1>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (name().trim() !== "") void props.signIn(name());
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
            value={name()}
            onInput={(event) => setName(event.currentTarget.value)}
          />
          <button type="submit" class="primary">
            Join
          </button>
        </div>
      </form>
      <h2>or be one of</h2>
      <ul class="faces">
        <For each={props.people}>
          {(person) => (
            <li>
              <button type="button" onClick={() => void props.signIn(person.name)}>
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
