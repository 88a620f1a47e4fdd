// Writes one JSON line per test, for the tests in Python that present them.

export default async function* report(source) {
  for await (const { type, data } of source) {
    if ((type === 'test:pass' || type === 'test:fail') && data.nesting === 0) {
      const error = data.details?.error;
      const detail = error ? `${error.cause?.stack ?? error.stack ?? error}` : null;
      yield `${JSON.stringify({ name: data.name, passed: type === 'test:pass', detail })}\n`;
    } else if (type === 'test:stderr') {
      yield `${JSON.stringify({ stderr: data.message })}\n`;
    }
  }
}
