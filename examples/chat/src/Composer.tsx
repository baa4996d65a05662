import { Show, createEffect, createSignal } from "solid-js";
import { kept } from "./kept.js";
import { LONGEST, lengthOf, problemWith, tidyBody } from "./messages.js";
import type { Room } from "./rooms.js";

/** From this many characters before the end on, it is said how many are left. */
const NEAR = 200;

interface Props {
  room: Room;
  /** Whose draft it is. */
  me: string;
  send: (body: string) => void;
  setTyping: (typing: boolean) => void;
}

export function Composer(props: Props) {
  const draft = kept(`chat draft ${props.me} ${props.room.id}`, "");
  const [text, setText] = createSignal(draft.read());
  const [problem, setProblem] = createSignal("");
  let field!: HTMLTextAreaElement;

  const left = () => LONGEST - lengthOf(tidyBody(text()));
  const write = (value: string) => {
    setText(value);
    draft.write(value);
    setProblem("");
  };
  // As high as its text, up to what the style allows.
  createEffect(() => {
    text();
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  });

  const send = () => {
    const body = tidyBody(text());
    field.focus();
    if (body === "") return write("");
    const why = problemWith(body);
    if (why !== null) return void setProblem(why);
    props.send(body);
    props.setTyping(false);
    write("");
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <label class="unseen" for="message">
        Message to {props.room.name}
      </label>
      <textarea
        ref={field}
        id="message"
        rows={1}
        placeholder={`Message to ${props.room.name}`}
        enterkeyhint="send"
        aria-invalid={problem() !== "" || left() < 0}
        aria-describedby="message-problem"
        value={text()}
        onInput={(event) => {
          write(event.currentTarget.value);
          props.setTyping(tidyBody(text()) !== "");
        }}
        onKeyDown={(event) => {
          // Enter also ends the choice of a character in a Chinese or Japanese keyboard.
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      <button type="submit" class="primary">
        Send
      </button>
      <p id="message-problem" class="problem" role="alert">
        {problem()}
      </p>
      <Show when={problem() === "" && left() < NEAR}>
        <p class="left" classList={{ over: left() < 0 }}>
          {left() < 0 ? `${-left()} too many` : `${left()} left`}
        </p>
      </Show>
    </form>
  );
}
