// Owns the colour theme: what was chosen, and applying it before the first paint.
// A classic script in <head>, not a module: a module runs after the first paint and the page would flash.
(() => {
  const KEY = 'order-service.theme';
  const root = document.documentElement;

  // Storage can be switched off by the user; the theme then lasts as long as the page.
  const stored = () => {
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  const store = (theme) => {
    try { localStorage.setItem(KEY, theme); } catch { /* nothing to keep it in */ }
  };

  const chosen = stored();
  if (chosen === 'light' || chosen === 'dark') root.dataset.theme = chosen;

  const isDark = () =>
    (root.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';

  document.addEventListener('DOMContentLoaded', () => {
    const button = document.getElementById('theme');
    const mark = () => button.setAttribute('aria-pressed', String(isDark()));
    button.addEventListener('click', () => {
      root.dataset.theme = isDark() ? 'light' : 'dark';
      store(root.dataset.theme);
      mark();
    });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', mark);
    mark();
  });
})();
