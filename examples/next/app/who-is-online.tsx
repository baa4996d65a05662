"use client";

import { usePresenceManager } from "presence-client/react";

export function WhoIsOnline({ currentUser }: { currentUser: string | null }) {
  const { activeUsers, isConnected, stats } = usePresenceManager<{ name: string }>({ currentUser, autoJoin: true });
  return (
    <section aria-label="Who is online">
      <p role="status">{isConnected ? `${stats.online} online` : "Connecting…"}</p>
      <ul>
        {activeUsers.map((user) => (
          <li key={user.user_id}>
            {user.metadata?.name ?? user.user_id}: {user.status}
          </li>
        ))}
      </ul>
    </section>
  );
}
