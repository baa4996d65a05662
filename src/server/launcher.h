// The launcher: one process of the server that starts a worker in each database that has the extension, again after a
// failure, and saves the heartbeats. It reads no table but pg_database. What a worker does lives in worker.h.
#pragma once

#include "server.h"

namespace presence {

// Before the server starts.
void register_launcher();

}  // namespace presence
