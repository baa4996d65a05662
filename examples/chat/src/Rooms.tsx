import { For, Show } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import type { Places } from "./messages.js";
import { ROOMS } from "./rooms.js";

/** Faces for which there is room beside a number. */
const FACES = 5;

export function Rooms(props: { current: string; places: Places | null; nameOf: (id: string) => string }) {
  return (
    <nav class="rooms" aria-labelledby="rooms-title">
      <h2 id="rooms-title">Rooms</h2>
      <ul>
        <For each={ROOMS}>
          {(room) => {
            const people = () => props.places?.[room.id] ?? [];
            const faces = () => people().slice(0, people().length > FACES ? FACES - 1 : FACES);
            const names = () => people().map(props.nameOf).join(", ");
            return (
              <li data-room={room.id}>
                <a href={`#/${room.id}`} aria-current={room.id === props.current ? "page" : undefined} title={names()}>
                  <span class="room-name">{room.name}</span>
                  <Show when={props.places}>
                    <span class="count">
                      {people().length}
                      <span class="unseen">
                        {people().length === 1 ? " person" : " people"}
                        {names() && `: ${names()}`}
                      </span>
                    </span>
                  </Show>
                  <span class="small-faces" aria-hidden="true">
                    <For each={faces()}>{(id) => <Avatar id={id} name={props.nameOf(id)} />}</For>
                    <Show when={people().length > faces().length}>
                      <span class="more">+{people().length - faces().length}</span>
                    </Show>
                  </span>
                </a>
              </li>
            );
          }}
        </For>
      </ul>
    </nav>
  );
}
