// Carries the cache's heartbeats over a restart, in a file of the data directory. Lives here: the file's name, how it is
// written so that a crash leaves the old one or the new one, and how its sessions come back. Does not live here: its
// layout (core/heartbeat_file.h). For the launcher.
#pragma once

#include "server.h"

namespace presence {

// Raise nothing: a file that can't be written or believed costs a line in the log.
void save_heartbeats();
// In a transaction. Sessions come back closed: the table decides about each at its first heartbeat.
void load_heartbeats();

}  // namespace presence
