// A TCP proxy of its own process, so that it can be stopped by a signal: connections stay open and nothing arrives, as behind a dead router.
import { connect, createServer } from "node:net";

const [host, port] = [process.argv[2], Number(process.argv[3])];

const server = createServer((near) => {
  const far = connect(port, host);
  near.pipe(far);
  far.pipe(near);
  const end = () => {
    near.destroy();
    far.destroy();
  };
  for (const socket of [near, far]) socket.on("error", end).on("close", end);
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
