// presence_tail --top: what presence_metrics() says, as rates since the last look. Lives here: its queries and what they look
// like. Connecting again and waiting is the tail's affair.
#pragma once

#include <cmath>

#include "client.h"

namespace presence::tools {

class Top {
public:
    // A whole screen, or a line.
    std::string look(Connection &connection, const std::string &schema, bool json, bool screen)
    {
        const auto rows = connection.query(
            "SELECT m.name || coalesce((SELECT pg_catalog.string_agg(' ' || l.value, '' ORDER BY l.key) FROM pg_catalog.jsonb_each_text(m.labels) AS l), ''), "
            "m.value, pg_catalog.to_char(pg_catalog.clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS'), pg_catalog.current_database() FROM " +
            schema + "presence_metrics() AS m");
        const auto now = std::chrono::steady_clock::now();
        seconds_ = std::chrono::duration<double>(now - looked_at_).count();
        looked_at_ = now;
        before_ = std::move(now_);
        now_.clear();
        for (int row = 0; row < rows.rows(); ++row)
            now_[rows.text(row, 0)] = std::strtod(rows.text(row, 1), nullptr);
        // Reads all sessions, so only now and then.
        if (screen && looks_++ % looks_per_problems == 0)
            problems_ = problems(connection, schema);
        const std::string at = rows.text(0, 2);
        return json ? as_json(at) : screen ? as_screen(at, rows.text(0, 3)) : as_line(at);
    }

private:
    using Values = std::map<std::string, double>;
    static constexpr int looks_per_problems = 10;

    static std::vector<std::string> problems(Connection &connection, const std::string &schema)
    {
        const auto rows = connection.query("SELECT problem FROM " + schema + "presence_problem");
        std::vector<std::string> found;
        found.reserve(static_cast<std::size_t>(rows.rows()));
        for (int row = 0; row < rows.rows(); ++row)
            found.emplace_back(rows.text(row, 0));
        return found;
    }

    static double sum(const Values &values, const std::string &prefix)
    {
        double total = 0;
        for (auto each = values.lower_bound(prefix); each != values.end() && each->first.starts_with(prefix); ++each)
            total += each->second;
        return total;
    }

    // A second. After a restart of the server, counters begin again.
    double rate(const std::string &prefix) const
    {
        if (before_.empty())
            return 0;
        const double change = sum(now_, prefix) - sum(before_, prefix);
        return change < 0 || seconds_ <= 0 ? 0 : change / seconds_;
    }

    // Below which bound that part of the lags since the last look lie; negative: there were none.
    double quantile(const std::string &name, double part) const
    {
        const std::string prefix = name + "_bucket ";
        std::vector<std::pair<double, double>> buckets;  // the bound, and how many lie below it
        for (auto each = now_.lower_bound(prefix); each != now_.end() && each->first.starts_with(prefix); ++each) {
            const auto found = before_.find(each->first);
            const double before = found != before_.end() && found->second <= each->second ? found->second : 0;
            buckets.emplace_back(std::strtod(each->first.c_str() + prefix.size(), nullptr), each->second - before);
        }
        std::sort(buckets.begin(), buckets.end());
        if (before_.empty() || buckets.empty() || buckets.back().second <= 0)
            return -1;
        const double wanted = part * buckets.back().second;
        return std::find_if(buckets.begin(), buckets.end(),
                            [wanted](const auto &each) { return each.second >= wanted; })
            ->first;
    }

    static std::string number(double value)
    {
        char text[64];
        std::snprintf(text, sizeof text, value < 10 && value != std::floor(value) ? "%.1f" : "%.0f", value);
        std::string shown = text;
        const std::size_t digits = std::min(shown.find('.'), shown.size());
        for (std::size_t left = digits; left > 3; left -= 3)
            shown.insert(left - 3, 1, ',');
        return shown;
    }

    static std::string lag(double seconds)
    {
        if (seconds < 0)
            return "-";
        if (std::isinf(seconds))
            return "> 60 s";
        return "< " + (seconds < 1 ? number(seconds * 1000) + " ms" : number(seconds) + " s");
    }

    // Counters whose names begin with this.
    struct Row {
        const char *what, *prefix;
    };
    static constexpr Row counters[] = {{"heartbeats in memory", "presence_heartbeats_total memory"},
                                       {"heartbeats in tables", "presence_heartbeats_total table"},
                                       {"  ignored", "presence_heartbeats_ignored_total"},
                                       {"  refused", "presence_heartbeats_refused_total"},
                                       {"users come", "presence_events_total user_online"},
                                       {"users leave on purpose", "presence_events_total user_offline leave"},
                                       {"users disconnect", "presence_events_total user_offline disconnect"},
                                       {"users fall silent", "presence_events_total user_offline timeout"},
                                       {"sessions begin", "presence_events_total session_start"},
                                       {"sessions end", "presence_events_total session_end"},
                                       {"updates", "presence_events_total update"},
                                       {"notifications", "presence_notifications_total"},
                                       {"  storms", "presence_storms_total"}};

    std::string row(const Row &each) const
    {
        return "  " + padded(each.what, 26) + padded_left(number(rate(each.prefix)), 12) +
               padded_left(number(sum(now_, each.prefix)), 18) + "\n";
    }

    static std::string padded_left(const std::string &text, std::size_t width)
    {
        return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
    }

    double gauge(const std::string &name) const { return sum(now_, name); }

    std::string as_screen(const std::string &at, const std::string &database) const
    {
        std::string text = "presence in " + database + ", " + at + "\n\n";
        text += "  " + number(gauge("presence_users_online")) + " users online, " +
                number(gauge("presence_cached_sessions")) + " sessions in memory, " +
                (gauge("presence_worker_up") > 0 ? "the worker runs\n\n" : "no worker\n\n");
        text += "                                    a second             total\n";
        for (const Row &each : counters)
            text += row(each);
        text += "\n  sessions end late by        half " + lag(quantile("presence_end_lag_seconds", 0.5)) + ", 99% " +
                lag(quantile("presence_end_lag_seconds", 0.99)) + "\n";
        text += "  listeners hear late by      half " + lag(quantile("presence_announce_lag_seconds", 0.5)) + ", 99% " +
                lag(quantile("presence_announce_lag_seconds", 0.99)) + "\n";
        text += "  events without a number     " + number(gauge("presence_events_unnumbered")) + "\n\n";
        for (const std::string &problem : problems_)
            text += "! " + problem + "\n";
        return text;
    }

    std::string as_line(const std::string &at) const
    {
        return at + "  " + number(gauge("presence_users_online")) +
               " users online, a second: " + number(rate("presence_heartbeats_total ")) + " heartbeats, " +
               number(rate("presence_events_total user_online")) + " come, " +
               number(rate("presence_events_total user_offline")) + " go";
    }

    std::string as_json(const std::string &at) const
    {
        std::string text = R"({"at": ")" + at + R"(")";
        for (const auto &[name, value] : now_) {
            char shown[64];
            std::snprintf(shown, sizeof shown, "%.10g", value);
            text += ", \"" + name + "\": " + shown;
        }
        return text + "}";
    }

    Values now_, before_;
    std::vector<std::string> problems_;
    std::chrono::steady_clock::time_point looked_at_;
    double seconds_ = 0;
    int looks_ = 0;
};

}  // namespace presence::tools
