/** A refusal that becomes an HTTP answer. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly headers: Record<string, string> = {},
    /** For programs, where the status does not say enough. */
    readonly code?: string,
  ) {
    super(message);
  }
}

/**
 * The JSON object in a request, whatever its content type says: a beacon arrives as text/plain, as the type of its
 * blob, or with none. Stops reading at `most` bytes, also when no Content-Length warned of them.
 */
export async function readJson(request: Request, most: number): Promise<Record<string, unknown>> {
  if (Number(request.headers.get("content-length") ?? 0) > most) throw new Refusal(413, `more than ${most} bytes`);
  const chunks: Uint8Array[] = [];
  let size = 0;
  const reader = request.body?.getReader();
  for (let part = await reader?.read(); part !== undefined && !part.done; part = await reader?.read()) {
    size += part.value.byteLength;
    if (size > most) {
      reader?.cancel().catch(() => {});
      throw new Refusal(413, `more than ${most} bytes`);
    }
    chunks.push(part.value);
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw new Refusal(400, "the body is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Refusal(400, "the body is not a JSON object");
  return value as Record<string, unknown>;
}
