import type { PresenceUser } from "presence-client";
import { For, Match, Show, Switch } from "solid-js";
import { Avatar } from "./Avatar.jsx";
import { STATUS } from "./Mark.jsx";
import { ago } from "./time.js";

interface Props {
  me: string;
  present: readonly PresenceUser[];
  /** Ids, and when each was seen last. */
  absent: readonly (readonly [string, string])[];
  known: boolean;
  stale: boolean;
  nameOf: (id: string) => string;
  /** Names of the rooms in which somebody is. */
  where: (id: string) => string[];
}

export function People(props: Props) {
  return (
    <section id="people" class="people" aria-labelledby="online-title" tabindex="0">
      <h2 id="online-title">
        {props.stale && props.known ? "Were online" : "Online"}{" "}
        <Show when={props.known}>
          <span class="count">{props.present.length}</span>
        </Show>
      </h2>
      <ul aria-labelledby="online-title">
        <For each={props.present}>
          {(user) => (
            <li data-user={user.user_id}>
              <Avatar id={user.user_id} name={nameIn(user)} status={props.stale ? "waiting" : user.status} />
              <div>
                <strong>
                  {nameIn(user)}
                  <Show when={user.user_id === props.me}> (you)</Show>
                </strong>
                <div class="facts">
                  <small>
                    {STATUS[user.status]} · {user.sessions} {user.sessions === 1 ? "tab" : "tabs"}
                  </small>
                  <Show when={props.where(user.user_id).join(", ")}>
                    {(rooms) => <small class="place">in {rooms()}</small>}
                  </Show>
                </div>
              </div>
            </li>
          )}
        </For>
      </ul>
      <Switch>
        <Match when={!props.known}>
          <p class="quiet">{props.stale ? "Not known before there is a connection." : "Looking who is here…"}</p>
        </Match>
        <Match when={props.present.every((user) => user.user_id === props.me)}>
          <p class="quiet">Nobody else is here. Open this page in a second browser and sign in as somebody else.</p>
        </Match>
      </Switch>
      <Show when={props.absent.length > 0}>
        <h2 id="absent-title">Not here</h2>
        <ul aria-labelledby="absent-title" class="absent">
          <For each={props.absent}>
            {([id, time]) => (
              <li data-user={id}>
                <Avatar id={id} name={props.nameOf(id)} status="offline" />
                <div>
                  <strong>{props.nameOf(id)}</strong>
                  <small>last seen {ago(time)}</small>
                </div>
              </li>
            )}
          </For>
        </ul>
      </Show>
    </section>
  );
}

export function nameIn(user: PresenceUser): string {
  return typeof user.metadata?.name === "string" ? user.metadata.name : user.user_id;
}
