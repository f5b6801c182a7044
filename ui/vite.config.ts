import { svelte } from '@sveltejs/vite-plugin-svelte';
import { readFileSync, readdirSync, existsSync } from 'node:fs';
import { defineConfig, type Plugin } from 'vite';
import { mock } from './dev/mock.mjs';

const ALLOWED = ['MIT', 'ISC', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0'];

/** Writes `licenses.txt` for the packages that are really in the bundle; fails on a licence we do not take. */
function licenses(): Plugin {
  return {
    name: 'licenses',
    generateBundle(_options, bundle) {
      const roots = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== 'chunk') continue;
        for (const id of chunk.moduleIds) {
          const found = id.replace(/^\0+/, '').match(/^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//);
          if (found) roots.add(found[1]);
        }
      }
      const parts = [...roots].map((root) => {
        const about = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
        if (!ALLOWED.includes(about.license)) this.error(`${about.name}: licence ${about.license} is not allowed`);
        const file = readdirSync(root).find((name) => /^licen[cs]e/i.test(name));
        const text = file && existsSync(`${root}/${file}`) ? readFileSync(`${root}/${file}`, 'utf8').trim() : '';
        return `${about.name} ${about.version} (${about.license})\n\n${text}\n`;
      });
      parts.sort();
      this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: parts.join(`\n${'-'.repeat(72)}\n\n`) });
    },
  };
}

/** Answers `/api/v1` in the development server, so that `npm run dev` needs no Floodplain. */
function mocked(): Plugin {
  return {
    name: 'mocked',
    configureServer(server) {
      const fleet = mock();
      server.middlewares.use((request, response, next) => {
        if (request.url?.startsWith('/api/v1/')) fleet.answer(request, response);
        else next();
      });
      server.httpServer?.once('close', () => fleet.close());
    },
  };
}

export default defineConfig({
  base: './',
  plugins: [svelte(), licenses(), mocked()],
  build: {
    target: 'es2022',
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: 'a/[name].js',
        chunkFileNames: 'a/[name].js',
        assetFileNames: 'a/[name][extname]',
      },
    },
  },
  server: process.env.FLOODPLAIN_URL ? { proxy: { '/api': process.env.FLOODPLAIN_URL } } : {},
});
