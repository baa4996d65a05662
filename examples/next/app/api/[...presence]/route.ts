import { presence } from "../../../lib/presence";

export const runtime = "nodejs";
export const dynamic = "force-dynamic";

const answer = (request: Request) => presence.handle(request) ?? new Response(null, { status: 404 });
export { answer as GET, answer as POST };
