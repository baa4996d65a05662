// Forgetting what is older than the settings say: events, log, ended sessions and users who have long been gone.
#pragma once

#include "../core/rules.h"
#include "server.h"

namespace presence {

// Each stands alone: what hinders one does not hinder the others; but events wait until they are in the reports.
enum class Retention : std::uint8_t { sessions, users, log, reports, events };
inline constexpr Retention all_retention[] = {Retention::sessions, Retention::users, Retention::log, Retention::reports,
                                              Retention::events};

// In the words of presence_health: "The worker cannot ...".
const char *task_name(Retention retention);
// A part of it, in about so many microseconds, so that nothing stays locked for long however much there is. Never waits for
// a lock on a row. In one transaction, within owner work. True: there is more.
bool forget_old(Retention retention, Time budget);
// All of it, each in a subtransaction: what fails is a warning, and shown in presence_health.
void forget_old();
// How often there can be something new to forget, in seconds.
int retention_interval_s();

}  // namespace presence
