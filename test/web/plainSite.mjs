// A site without a framework: the package's endpoints and modules, and pages as they are.
//
//     node plainSite.mjs PACKAGE PAGES      both are directories
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join, normalize } from "node:path";
import { pathToFileURL } from "node:url";

const [program, pages] = process.argv.slice(2);
const { createPresenceServer, nodeAdapter } = await import(pathToFileURL(`${program}/dist/esm/server/index.js`));

/** Anybody is who his cookie says. */
function signedIn(cookies) {
  const name = /(?:^|;\s*)chat_name=([^;]+)/.exec(cookies ?? "")?.[1];
  return name === undefined ? null : decodeURIComponent(name);
}

const presence = createPresenceServer({
  authenticate(request) {
    const name = signedIn(request.headers.get("cookie"));
    return name && { userId: name.toLowerCase(), metadata: { name } };
  },
});
const answerPresence = nodeAdapter(presence);

/** Nothing but what the site itself serves. */
const STRICT = "default-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'";

async function answer(request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/favicon.ico") return void response.writeHead(204).end();
  const path = normalize(pathname === "/" ? "/index.html" : pathname);
  const modules = /^\/presence-client\//;
  const file = modules.test(path) ? join(program, "dist/esm", path.replace(modules, "")) : join(pages, path);
  let text;
  try {
    text = await readFile(file, "utf8");
  } catch {
    return void response.writeHead(404).end();
  }
  // What a template does. The name is what the id is made of, and may be anything.
  const id = (signedIn(request.headers.cookie) ?? "")
    .toLowerCase()
    .replace(/["&<]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const html = path.endsWith(".html");
  const type = html ? "text/html; charset=utf-8" : "text/javascript";
  response.writeHead(200, {
    "content-type": type,
    ...(path === "/strict.html" && { "content-security-policy": STRICT }),
  });
  response.end(html ? text.replaceAll('user="ada"', `user="${id}"`) : text);
}

const server = createServer((request, response) => {
  void answerPresence(request, response, () => void answer(request, response));
});
server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () =>
  console.log(`http://127.0.0.1:${server.address().port}/`),
);
process.once("SIGTERM", () => {
  server.close();
  server.closeAllConnections(); // event streams never end by themselves
  void presence.close().finally(() => process.exit(0));
});
