import { Show } from "solid-js";
import { colourOf, initialsOf } from "./people.js";

/** Decoration: the name and the status stand beside it as text, so screen readers skip it. */
export function Avatar(props: { id: string; name: string; status?: string }) {
  return (
    <span class="avatar" style={{ background: colourOf(props.id) }} aria-hidden="true">
      {initialsOf(props.name)}
      <Show when={props.status}>
        <span class={`dot ${props.status}`} />
      </Show>
    </span>
  );
}
