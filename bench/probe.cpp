// The clients that pgbench cannot be: arrays as parameters, exact times, notifications. The connection comes from the
// environment (PGHOST, PGPORT, ...). Users are numbered, and a user's session has the user's id.
//
//   probe load FROM TO CLIENTS                     sessions begin, and beat once more, in arrays of 1,000
//   probe batches CLIENTS SECONDS SIZE SESSIONS FORMAT FUNCTION
//                                                  random sessions in arrays, FORMAT text or binary: beats per second
//   probe singles CLIENTS SECONDS ROUNDS SESSIONS STATEMENT...
//                                                  the statements take turns on the same connections, with a random session as
//                                                  their only parameter: per turn a line, statement's number, tab, calls per
//                                                  second, tab, CPU of the backends per call in us
//   probe keep SESSIONS PERIOD                     every session once per PERIOD seconds, in arrays of 1,000, until SIGTERM
//   probe listen CHANNEL                           each notification on a line: microseconds since 1970, tab, payload
//   probe joins COUNT PREFIX PAUSE                 one by one, PAUSE ms apart: us to the answer, tab, us to the notification
//   probe beats COUNT PREFIX PAUSE                 one by one: number, tab, microseconds since 1970 before the call
//   probe outage                                   beats until the server has gone and come back: us since 1970 of the last
//                                                  beat, the first SELECT 1 and the first beat, tabs between
//   probe storm COUNT CLIENTS                      users 1 to COUNT come back at once: a line per fact
//   probe latency SECONDS STATEMENT                every 5 ms: a line each, us
//   probe watch SECONDS STATEMENT                  every 5 ms: a line each, the first value of the result
//   probe memory BEATS SESSIONS                    one connection beats on and on: its private bytes, now and then
#include <arpa/inet.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

std::atomic<bool> stopped{false};

long long now_us()
{
    return std::chrono::duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

[[noreturn]] void fail(const char *what, PGconn *conn)
{
    std::fprintf(stderr, "probe: %s: %s", what, PQerrorMessage(conn));
    std::exit(1);
}

PGconn *connect()
{
    PGconn *conn = PQconnectdb("");
    if (PQstatus(conn) != CONNECTION_OK)
        fail("no connection", conn);
    return conn;
}

bool ok(const PGresult *result)
{
    const ExecStatusType status = PQresultStatus(result);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

bool run(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    const bool good = ok(result);
    PQclear(result);
    return good;
}

std::string value(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
        fail(sql, conn);
    std::string text = PQgetvalue(result, 0, 0);
    PQclear(result);
    return text;
}

void prepare(PGconn *conn, const char *name, const std::string &sql)
{
    PGresult *result = PQprepare(conn, name, sql.c_str(), 0, nullptr);
    if (!ok(result))
        fail(sql.c_str(), conn);
    PQclear(result);
}

void prepare_beat(PGconn *conn) { prepare(conn, "beat", "SELECT update_user_heartbeat($1, $2)"); }

bool beat(PGconn *conn, const std::string &user)
{
    const char *const values[] = {user.c_str(), user.c_str()};
    PGresult *result = PQexecPrepared(conn, "beat", 2, values, nullptr, nullptr, 0);
    const bool alive = PQresultStatus(result) == PGRES_TUPLES_OK && std::strcmp(PQgetvalue(result, 0, 0), "t") == 0;
    PQclear(result);
    return alive;
}

// ---------------------------------------------------------------------------------------------------------------------
// Arrays as parameters: the text that any client can send, and the binary form that many drivers do send.
// ---------------------------------------------------------------------------------------------------------------------

void append_int(std::string &bytes, std::uint32_t number)
{
    const std::uint32_t big_endian = htonl(number);
    bytes.append(reinterpret_cast<const char *>(&big_endian), sizeof big_endian);
}

struct ArrayFormat {
    bool binary;
    std::uint32_t element;  // oid of the element type, for the binary form
};

std::string array_of(const std::vector<long> &ids, ArrayFormat format)
{
    std::string array;
    if (!format.binary) {
        array = "{";
        for (const long id : ids)
            array += std::to_string(id) + ',';
        array.back() = '}';
        return array;
    }
    append_int(array, 1);  // dimensions
    append_int(array, 0);  // no NULL in it
    append_int(array, format.element);
    append_int(array, static_cast<std::uint32_t>(ids.size()));
    append_int(array, 1);  // lower bound
    for (const long id : ids) {
        const std::string text = std::to_string(id);
        append_int(array, static_cast<std::uint32_t>(text.size()));
        array += text;
    }
    return array;
}

ArrayFormat format_of(PGconn *conn, const std::string &name, const char *type)
{
    const std::string sql = std::string("SELECT '") + type + "'::regtype::oid";
    return {.binary = name == "binary", .element = static_cast<std::uint32_t>(std::stoul(value(conn, sql.c_str())))};
}

void prepare_batch(PGconn *conn, const std::string &function, const std::string &type)
{
    prepare(conn, "batch", "SELECT " + function + "($1::" + type + "[], $2::" + type + "[])");
}

long send_batch(PGconn *conn, const std::string &array, ArrayFormat format)
{
    const char *const values[] = {array.data(), array.data()};
    const int lengths[] = {static_cast<int>(array.size()), static_cast<int>(array.size())};
    const int formats[] = {format.binary ? 1 : 0, format.binary ? 1 : 0};
    PGresult *result = PQexecPrepared(conn, "batch", 2, values, lengths, formats, 0);
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        fail("batch", conn);
    const long online = std::atol(PQgetvalue(result, 0, 0));
    PQclear(result);
    return online;
}

std::vector<long> range(long from, long to)
{
    std::vector<long> ids;
    for (long id = from; id <= to; ++id)
        ids.push_back(id);
    return ids;
}

int load(long from, long to, int clients)
{
    std::atomic<long> next{from};
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(clients));
    for (int i = 0; i < clients; ++i)
        threads.emplace_back([&] {
            PGconn *conn = connect();
            prepare_batch(conn, "update_user_heartbeats", "presence_id");
            for (long first; !stopped && (first = next.fetch_add(1000)) <= to;) {
                const std::string array =
                    array_of(range(first, std::min(first + 999, to)), {.binary = false, .element = 0});
                for (int twice = 0; twice < 2; ++twice)
                    if (send_batch(conn, array, {.binary = false, .element = 0}) == 0)
                        fail("nobody online after a batch", conn);
            }
            PQfinish(conn);
        });
    for (std::thread &thread : threads)
        thread.join();
    return 0;
}

int batches(int clients, double length, int size, long sessions, const std::string &format_name,
            const std::string &function)
{
    constexpr int prepared_arrays = 16;  // so that building them is not measured, as redis-benchmark does it
    const char *type = function == "update_user_heartbeats" ? "presence_id" : "text";
    std::atomic<long> beats{0};
    std::atomic<bool> go{false};
    std::atomic<int> ready{0};
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(clients));
    for (int i = 0; i < clients; ++i)
        threads.emplace_back([&, i] {
            PGconn *conn = connect();
            const ArrayFormat format = format_of(conn, format_name, type);
            prepare_batch(conn, function, type);
            std::mt19937_64 random(static_cast<std::uint64_t>(i) + 1);
            std::vector<std::string> arrays;
            for (int a = 0; a < prepared_arrays; ++a) {
                std::set<long> distinct;  // an upsert refuses a row that comes twice
                while (static_cast<long>(distinct.size()) < std::min<long>(size, sessions))
                    distinct.insert(1 + static_cast<long>(random() % static_cast<std::uint64_t>(sessions)));
                std::vector<long> ids(distinct.begin(), distinct.end());
                std::shuffle(ids.begin(), ids.end(), random);
                arrays.push_back(array_of(ids, format));
            }
            send_batch(conn, arrays[0], format);
            ++ready;
            while (!go)
                std::this_thread::sleep_for(milliseconds(1));
            for (std::size_t a = 0; !stopped; ++a) {
                send_batch(conn, arrays[a % arrays.size()], format);
                beats += size;
            }
            PQfinish(conn);
        });
    while (ready < clients)
        std::this_thread::sleep_for(milliseconds(1));
    const auto start = Clock::now();
    go = true;
    std::this_thread::sleep_for(std::chrono::duration<double>(length));
    const long counted = beats;
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    stopped = true;
    for (std::thread &thread : threads)
        thread.join();
    std::printf("%.0f\n", static_cast<double>(counted) / took);
    return 0;
}

// Nanoseconds that the backend has been running.
double cpu_ns(PGconn *conn)
{
    const std::string path = "/proc/" + std::to_string(PQbackendPID(conn)) + "/schedstat";
    std::FILE *file = std::fopen(path.c_str(), "r");
    double spent = 0;
    if (file == nullptr || std::fscanf(file, "%lf", &spent) != 1)
        fail(path.c_str(), conn);
    std::fclose(file);
    return spent;
}

int singles(int clients, double length, int rounds, long sessions, const std::vector<std::string> &statements)
{
    std::vector<PGconn *> conns;
    const auto everywhere = [&](const auto &work) {
        std::vector<std::thread> threads;
        threads.reserve(conns.size());
        for (std::size_t i = 0; i < conns.size(); ++i)
            threads.emplace_back([&, i] { work(i); });
        for (std::thread &thread : threads)
            thread.join();
    };
    for (int i = 0; i < clients; ++i)
        conns.push_back(connect());
    // Connections last: what counts is the cost once a backend has touched the memory of all sessions.
    everywhere([&](std::size_t i) {
        prepare_batch(conns[i], "update_user_heartbeats", "presence_id");
        const ArrayFormat format = format_of(conns[i], "binary", "presence_id");
        for (long first = 1; first <= sessions; first += 1000)
            send_batch(conns[i], array_of(range(first, std::min(first + 999, sessions)), format), format);
        for (std::size_t s = 0; s < statements.size(); ++s)
            prepare(conns[i], std::to_string(s).c_str(), statements[s]);
    });
    const auto turn = [&](std::size_t statement) {
        std::atomic<long> calls{0};
        const std::string name = std::to_string(statement);
        const auto sum_cpu = [&] {
            double sum = 0;
            for (PGconn *conn : conns)
                sum += cpu_ns(conn);
            return sum;
        };
        const double cpu_before = sum_cpu();
        const auto start = Clock::now();
        everywhere([&](std::size_t i) {
            std::mt19937_64 random(std::random_device{}());
            long mine = 0;
            while (std::chrono::duration<double>(Clock::now() - start).count() < length) {
                const std::string id = std::to_string(1 + random() % static_cast<std::uint64_t>(sessions));
                const char *const values[] = {id.c_str()};
                PGresult *result = PQexecPrepared(conns[i], name.c_str(), 1, values, nullptr, nullptr, 0);
                if (!ok(result))
                    fail(statements[statement].c_str(), conns[i]);
                PQclear(result);
                ++mine;
            }
            calls += mine;
        });
        const double took = std::chrono::duration<double>(Clock::now() - start).count();
        const auto count = static_cast<double>(calls);
        std::printf("%zu\t%.0f\t%.3f\n", statement, count / took, (sum_cpu() - cpu_before) / count / 1000);
    };
    for (int round = 0; round < rounds; ++round)
        for (std::size_t s = 0; s < statements.size(); ++s)
            turn(round % 2 == 0 ? s : statements.size() - 1 - s);
    for (PGconn *conn : conns)
        PQfinish(conn);
    return 0;
}

int keep(long sessions, double period)
{
    PGconn *conn = connect();
    prepare_batch(conn, "update_user_heartbeats", "presence_id");
    const ArrayFormat format = format_of(conn, "binary", "presence_id");
    const auto pause = std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(period * 1000.0 / static_cast<double>(sessions)));
    auto next = Clock::now();
    for (long first = 1; !stopped; first = first + 1000 > sessions ? 1 : first + 1000) {
        send_batch(conn, array_of(range(first, std::min(first + 999, sessions)), format), format);
        next += pause;
        std::this_thread::sleep_until(next);
    }
    PQfinish(conn);
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Notifications
// ---------------------------------------------------------------------------------------------------------------------

PGconn *listening(const char *channel)
{
    PGconn *conn = connect();
    char *name = PQescapeIdentifier(conn, channel, std::strlen(channel));
    if (!run(conn, (std::string("LISTEN ") + name).c_str()))
        fail("LISTEN", conn);
    PQfreemem(name);
    return conn;
}

// Calls take(microseconds since 1970, payload) for what comes within the time.
template <typename Take>
void receive(PGconn *conn, int timeout_ms, Take take)
{
    pollfd socket{.fd = PQsocket(conn), .events = POLLIN, .revents = 0};
    if (poll(&socket, 1, timeout_ms) <= 0)
        return;
    if (PQconsumeInput(conn) == 0)
        fail("connection lost", conn);
    const long long at = now_us();
    while (PGnotify *notification = PQnotifies(conn)) {
        take(at, notification->extra);
        PQfreemem(notification);
    }
}

int listen(const char *channel)
{
    PGconn *conn = listening(channel);
    std::puts("ready");
    std::fflush(stdout);
    while (!stopped) {
        receive(conn, 50, [](long long at, const char *payload) { std::printf("%lld\t%s\n", at, payload); });
        std::fflush(stdout);
    }
    PQfinish(conn);
    return 0;
}

int joins(int count, const std::string &prefix, int pause)
{
    PGconn *listener = listening("presence");
    PGconn *caller = connect();
    prepare_beat(caller);
    for (int i = 0; i < count; ++i) {
        const std::string user = prefix + std::to_string(i);
        const std::string needle = "\"" + user + "\"";
        std::atomic<long long> answered{0};
        const long long called = now_us();
        std::thread call([&] {
            if (!beat(caller, user))
                fail("heartbeat", caller);
            answered = now_us();
        });
        long long notified = 0;
        while (notified == 0 && now_us() - called < 5'000'000)
            receive(listener, 100, [&](long long at, const char *payload) {
                if (std::strstr(payload, needle.c_str()) != nullptr)
                    notified = at;
            });
        call.join();
        std::printf("%lld\t%lld\n", answered - called, notified == 0 ? -1 : notified - called);
        std::this_thread::sleep_for(milliseconds(pause));
    }
    PQfinish(listener);
    PQfinish(caller);
    return 0;
}

int beats(int count, const std::string &prefix, int pause)
{
    PGconn *conn = connect();
    prepare_beat(conn);
    auto next = Clock::now();
    for (int i = 0; i < count; ++i, next += milliseconds(pause)) {
        std::this_thread::sleep_until(next);
        const long long at = now_us();
        if (!beat(conn, prefix + std::to_string(i)))
            fail("heartbeat", conn);
        std::printf("%d\t%lld\n", i, at);
    }
    PQfinish(conn);
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Outages
// ---------------------------------------------------------------------------------------------------------------------

int outage()
{
    PGconn *conn = connect();
    prepare_beat(conn);
    std::puts("ready");
    std::fflush(stdout);
    long long last = now_us();
    for (; beat(conn, "1"); std::this_thread::sleep_for(milliseconds(1)))
        last = now_us();
    PQfinish(conn);
    for (;; std::this_thread::sleep_for(milliseconds(1))) {
        conn = PQconnectdb("");
        if (PQstatus(conn) == CONNECTION_OK && run(conn, "SELECT 1")) {
            const long long answered = now_us();
            prepare_beat(conn);
            if (beat(conn, "1")) {
                std::printf("%lld\t%lld\t%lld\n", last, answered, now_us());
                return 0;
            }
        }
        PQfinish(conn);
    }
}

// every(connection) is called every 5 ms.
template <typename Every>
int sample(double length, Every every)
{
    PGconn *conn = connect();
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(length));
    while (!stopped && Clock::now() < end) {
        every(conn);
        std::this_thread::sleep_for(milliseconds(5));
    }
    PQfinish(conn);
    return 0;
}

int latency(double length, const char *sql)
{
    return sample(length, [sql](PGconn *conn) {
        const auto start = Clock::now();
        if (!run(conn, sql))
            fail(sql, conn);
        std::printf("%lld\n",
                    static_cast<long long>(std::chrono::duration_cast<microseconds>(Clock::now() - start).count()));
    });
}

int watch(double length, const char *sql)
{
    return sample(length, [sql](PGconn *conn) { std::puts(value(conn, sql).c_str()); });
}

long long number_of(const char *payload, const char *key)
{
    const char *at = std::strstr(payload, key);
    return at == nullptr ? -1 : std::atoll(std::strchr(at, ':') + 1);
}

int storm(long count, int clients)
{
    PGconn *listener = listening("presence");
    std::atomic<long> next{1}, failed{0};
    std::atomic<int> running{clients};
    const auto start = Clock::now();
    const auto since = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    std::vector<std::thread> threads;
    threads.reserve(static_cast<std::size_t>(clients));
    for (int i = 0; i < clients; ++i)
        threads.emplace_back([&] {
            PGconn *conn = connect();
            prepare_beat(conn);
            for (long user; (user = next++) <= count;)
                if (!beat(conn, std::to_string(user)))
                    ++failed;
            PQfinish(conn);
            --running;
        });
    long heard = 0, disordered = 0;
    long long last_seq = 0;
    double absorbed = 0, last_heard = 0;
    while (heard < count && (running > 0 || since() - absorbed < 30)) {
        receive(listener, 20, [&](long long, const char *payload) {
            const bool many = std::strstr(payload, "\"storm\"") != nullptr;
            if (!many && std::strstr(payload, "\"user_online\"") == nullptr)
                return;
            const long long seq = number_of(payload, many ? "\"from\"" : "\"seq\"");
            disordered += seq <= last_seq;
            last_seq = many ? number_of(payload, "\"to\"") : seq;
            heard += many ? number_of(payload, "\"online\"") : 1;
            last_heard = since();
        });
        if (running > 0)
            absorbed = since();
    }
    for (std::thread &thread : threads)
        thread.join();
    std::printf("seconds\t%.3f\nfailed\t%ld\nheard\t%ld\ndisordered\t%ld\nlast_heard\t%.3f\n", absorbed, failed.load(),
                heard, disordered, last_heard);
    PQfinish(listener);
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory of one backend
// ---------------------------------------------------------------------------------------------------------------------

long private_kb(const std::string &pid)
{
    std::FILE *file = std::fopen(("/proc/" + pid + "/status").c_str(), "r");
    if (file == nullptr)
        return -1;
    char line[256];
    long kb = -1;
    while (std::fgets(line, sizeof line, file) != nullptr)
        if (std::sscanf(line, "RssAnon: %ld kB", &kb) == 1)
            break;
    std::fclose(file);
    return kb;
}

int memory(long count, long sessions)
{
    PGconn *conn = connect();
    prepare_beat(conn);
    prepare_batch(conn, "update_user_heartbeats", "presence_id");
    const ArrayFormat format = format_of(conn, "binary", "presence_id");
    const std::string pid = value(conn, "SELECT pg_backend_pid()");
    const long step = count / 10;
    long done = 0;
    for (long report = 0; report <= count; report += step) {
        for (long i = 0; i < 1000; ++i, ++done)  // also the call for one
            if (!beat(conn, std::to_string(1 + i % sessions)))
                fail("heartbeat", conn);
        for (; done < report; done += 1000)
            send_batch(conn, array_of(range(1 + done % (sessions - 999), 1000 + done % (sessions - 999)), format),
                       format);
        std::printf("%ld\t%ld\n", done, private_kb(pid) * 1024);
    }
    PQfinish(conn);
    return 0;
}

}  // namespace

int main(int argc, char **argv)
{
    const std::string mode = argc > 1 ? argv[1] : "";
    const auto is = [&](const char *name, int arguments) { return mode == name && argc == arguments + 2; };
    const auto number = [&](int i) { return std::atol(argv[i]); };
    std::signal(SIGTERM, [](int) { stopped = true; });
    if (is("load", 3))
        return load(number(2), number(3), std::atoi(argv[4]));
    if (is("batches", 6))
        return batches(std::atoi(argv[2]), std::atof(argv[3]), std::atoi(argv[4]), number(5), argv[6], argv[7]);
    if (mode == "singles" && argc > 6)
        return singles(std::atoi(argv[2]), std::atof(argv[3]), std::atoi(argv[4]), number(5), {argv + 6, argv + argc});
    if (is("keep", 2))
        return keep(number(2), std::atof(argv[3]));
    if (is("listen", 1))
        return listen(argv[2]);
    if (is("joins", 3))
        return joins(std::atoi(argv[2]), argv[3], std::atoi(argv[4]));
    if (is("beats", 3))
        return beats(std::atoi(argv[2]), argv[3], std::atoi(argv[4]));
    if (is("outage", 0))
        return outage();
    if (is("latency", 2))
        return latency(std::atof(argv[2]), argv[3]);
    if (is("watch", 2))
        return watch(std::atof(argv[2]), argv[3]);
    if (is("storm", 2))
        return storm(number(2), std::atoi(argv[3]));
    if (is("memory", 2))
        return memory(number(2), number(3));
    std::fputs("usage: see the head of probe.cpp\n", stderr);
    return 2;
}
