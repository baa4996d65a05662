import { createPresenceServer, type PresenceServer } from "presence-client/server";
import { sessionOf } from "./auth";

function create(): PresenceServer {
  return createPresenceServer({
    // Who sends this request? Nobody can beat or leave for anybody else.
    authenticate(request) {
      const login = sessionOf(request.headers.get("cookie"));
      return login && { userId: login.userId, metadata: { name: login.name } };
    },
  });
}

// One for the process, also when a development server loads this file again.
const shared = globalThis as { presenceServer?: PresenceServer };
export const presence = (shared.presenceServer ??= create());
