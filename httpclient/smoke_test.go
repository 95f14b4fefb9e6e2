package httpclient

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, secure := range []bool{false, true} {
			if h2 && !secure {
				continue
			}
			t.Run(fmt.Sprint("h2=", h2, " tls=", secure), func(t *testing.T) {
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					fmt.Fprintf(w, "%s %s %d", r.Proto, r.Method, len(b))
				}))
				s.EnableHTTP2 = h2
				if secure {
					s.StartTLS()
				} else {
					s.Start()
				}
				defer s.Close()
				base := s.Client().Transport.(*http.Transport).Clone()
				base.DialContext, base.DialTLSContext = nil, nil
				c, err := New(Config{Transport: base})
				require.NoError(t, err)
				var wg sync.WaitGroup
				for range 50 {
					wg.Go(func() {
						for range 20 {
							ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
							req, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
							resp, err := c.HTTPClient().Do(req)
							if err != nil {
								t.Error(err)
								cancel()
								return
							}
							b, err := io.ReadAll(resp.Body)
							resp.Body.Close()
							cancel()
							if err != nil || resp.StatusCode != 200 {
								t.Error(err, resp.Status)
							}
							_ = b
						}
					})
				}
				wg.Wait()
				t.Logf("%+v", c.Stat())
				require.NoError(t, c.Close(t.Context()))
			})
		}
	}
}
