import { colourOf, initialsOf } from "presence-client";
import { Show } from "solid-js";
import { Mark, type MarkKind } from "./Mark.jsx";

/** Decoration: the name and the status stand beside it as text, so screen readers skip it. */
export function Avatar(props: { id: string; name: string; status?: MarkKind }) {
  return (
    <span class="avatar" style={{ background: colourOf(props.id) }} aria-hidden="true">
      {initialsOf(props.name)}
      <Show when={props.status}>{(status) => <Mark kind={status()} />}</Show>
    </span>
  );
}
